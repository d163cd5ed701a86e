package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/shared/remote"
)

// GatewayStatus is a gateway of the cell, as it last reported.
type GatewayStatus struct {
	Node        string    `json:"node"`
	Address     string    `json:"address"`
	Version     string    `json:"version"`
	Phase       string    `json:"phase"`
	Started     time.Time `json:"started"`
	Lives       bool      `json:"lives"` // it has sent a heartbeat in time
	Connections int       `json:"connections"`
	// Differs lists what differs from the gateway that is asked: version, rules, or sections of the configuration.
	Differs []string `json:"differs,omitempty"`
}

// gateways returns the gateways of the cell, nil in a cell with one.
func (a *gateway) gateways() []GatewayStatus {
	if a.member == nil {
		return nil
	}
	return a.listedGateways()
}

// listedGateways returns the gateways that Redis last listed.
func (a *gateway) listedGateways() []GatewayStatus {
	all, _ := a.liveness.gateways()
	mine := Runs{Version: a.build.Version, Rules: a.rules.hash(), Config: a.Config().Alike()}
	out := make([]GatewayStatus, 0, len(all))
	for i := range all {
		g := &all[i]
		runs := runsOf(g)
		s := GatewayStatus{
			Node: g.Node, Address: runs.Address, Version: runs.Version, Phase: runs.Phase, Started: g.Start.UTC(), Lives: g.Lives,
			Connections: runs.Connections,
		}
		if g.Node != a.cfg.Cell.Node {
			s.Differs = differs(&mine, &runs)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(x, y GatewayStatus) int { return strings.Compare(x.Node, y.Node) })
	return out
}

// runsOf decodes what a gateway says that it runs. Another version may say less.
func runsOf(g *cell.Gateway) (r Runs) {
	_ = json.Unmarshal([]byte(g.Runs), &r)
	return r
}

func differs(a, b *Runs) (what []string) {
	if a.Version != b.Version {
		what = append(what, "version")
	}
	if a.Rules != b.Rules && b.Rules != "" { // empty while it starts
		what = append(what, "rules")
	}
	for _, section := range slices.Sorted(maps.Keys(a.Config)) {
		if theirs, there := b.Config[section]; there && theirs != a.Config[section] {
			what = append(what, "configuration: "+section)
		}
	}
	return what
}

// cellHealth returns what is degraded in the cell.
func (a *gateway) cellHealth() []remote.Health {
	if a.member == nil {
		return nil
	}
	var all []remote.Health
	since := a.member.shards.changed()
	degraded := func(name, reason string) {
		all = append(all, remote.Health{Name: name, Since: since, Reason: reason})
	}
	switch away, every := a.member.shards.away(); {
	case every:
		degraded("cell", "commands are refused: Redis does not answer")
	case len(away) > 0:
		degraded("cell", fmt.Sprintf("commands for some vehicles are refused: the Redis servers of the slots %v do not answer", away))
	}
	if err := a.member.unusable(); err != nil {
		degraded("cell", fmt.Sprintf("commands are refused: %v", err))
	}
	for _, g := range a.gateways() {
		// Versions differ during an upgrade. That is no fault.
		if what := slices.DeleteFunc(g.Differs, func(s string) bool { return s == "version" }); g.Lives && len(what) > 0 {
			degraded("gateway "+g.Node, "it runs with other settings than this one: "+strings.Join(what, ", "))
		}
	}
	return all
}
