//go:build real || bench

package cells

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/scenario"
)

// gather collects the evidence after the cell is idle.
func (c *Cell) gather(s *senders) *Evidence {
	c.t.Helper()
	e := &Evidence{Commands: s.Commands, Truth: c.truth(), Faults: c.faults, Overlap: c.overlap}
	for _, v := range c.Cars {
		e.Vehicles = append(e.Vehicles, v.Vehicle)
	}
	e.Ends = c.awaitEnds(e, 40*time.Second)
	c.awaitConsistent(e, time.Minute) // another gateway finds an unpublished end within 40 s
	return e
}

// api is a client of a gateway's HTTP API that keeps connections.
type api struct {
	client http.Client
	token  string
}

func (a *api) get(n *Node, path string, into any) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+n.HTTP+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		return resp.StatusCode, fmt.Errorf("%s %s: %d %s", n.Name, path, resp.StatusCode, body)
	}
	return resp.StatusCode, json.Unmarshal(body, into)
}

// awaitEnds asks every gateway for every command until all commands have ended or limit has passed.
func (c *Cell) awaitEnds(e *Evidence, limit time.Duration) map[string][]End {
	c.t.Helper()
	a := &api{token: c.Token(), client: http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4}}}
	defer a.client.CloseIdleConnections()
	open, taken := map[string]string{}, map[string]bool{} // id → VIN; taken: accepted ids, those from Kafka perhaps not by a gateway yet
	for _, cmd := range e.Commands {
		if cmd.ID != "" {
			open[cmd.ID] = cmd.VIN
			taken[cmd.ID] = taken[cmd.ID] || slices.ContainsFunc(cmd.Answers, func(a Answer) bool { return a.Said == SaidAccepted })
		}
	}
	ends := map[string][]End{}
	var failed map[string]error
	for began := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		var got map[string][]End
		got, failed = c.askAll(a, open)
		for id, all := range got {
			ends[id] = all
			if len(all) == len(c.Nodes) && !slices.ContainsFunc(all, func(one End) bool {
				return one.Missing && taken[id] || !one.Missing && (!final(one.State) || one.State != all[0].State)
			}) {
				delete(open, id)
			}
		}
		if len(open) == 0 || time.Since(began) > limit {
			break
		}
	}
	for node, err := range failed {
		c.t.Errorf("%s does not tell the ends of commands: %v", node, err)
	}
	for _, cmd := range e.Commands { // a command that was unknown may exist by now
		if all := ends[cmd.ID]; slices.ContainsFunc(all, func(one End) bool { return one.Missing }) {
			open[cmd.ID] = cmd.VIN
		}
	}
	again, _ := c.askAll(a, open)
	maps.Copy(ends, again)
	return ends
}

// askAll asks every gateway for commands. Gateways that do not answer are returned in failed.
func (c *Cell) askAll(a *api, ids map[string]string) (out map[string][]End, failed map[string]error) {
	var mu sync.Mutex
	var group sync.WaitGroup
	out, failed = map[string][]End{}, map[string]error{}
	list := slices.Sorted(maps.Keys(ids))
	for _, n := range c.Nodes {
		group.Add(1)
		go func() {
			defer group.Done()
			for _, id := range list {
				var cmd struct {
					State, Cause, Outcome string
					ExpiresAt             time.Time `json:"expires_at"`
				}
				status, err := a.get(n, "/v1/vehicles/"+ids[id]+"/commands/"+id, &cmd)
				mu.Lock()
				if err != nil {
					failed[n.Name] = err
					mu.Unlock()
					return
				}
				out[id] = append(out[id], End{n.Name, status == http.StatusNotFound, cmd.State, cmd.Cause, cmd.Outcome, cmd.ExpiresAt})
				mu.Unlock()
			}
		}()
	}
	group.Wait()
	return out, failed
}

// awaitConsistent reads the topics until the judge finds no violation in them or limit has passed: gateways publish events
// with a delay.
func (c *Cell) awaitConsistent(e *Evidence, limit time.Duration) {
	c.t.Helper()
	for began := time.Now(); ; time.Sleep(2 * time.Second) {
		e.Events, e.Telemetry, e.Presence = nil, nil, nil
		c.Kafka.Each("vehicle.command-results", func(r harness.Record) {
			var ev Event
			check.OK(c.t, json.Unmarshal(r.Value, &ev))
			e.Events = append(e.Events, ev)
		})
		c.Kafka.Each("vehicle.presence", func(r harness.Record) {
			var p scenario.PresenceEvent
			check.OK(c.t, json.Unmarshal(r.Value, &p))
			e.Presence = append(e.Presence, p)
		})
		c.Kafka.Each("vehicle.telemetry", func(r harness.Record) { e.Telemetry = append(e.Telemetry, telemetered(r)) })
		if len(Judge(e)) == 0 || time.Since(began) > limit {
			return
		}
	}
}

// telemetered decodes a record of vehicle.telemetry.
func telemetered(r harness.Record) Telemetered {
	var payload struct{ Seq int64 }
	_ = json.Unmarshal(r.Value, &payload)
	t := Telemetered{VIN: r.Key, Seq: payload.Seq}
	t.Epoch, _ = strconv.ParseInt(r.Headers["epoch"], 10, 64)
	parts := strings.Split(r.Headers["msg-id"], "-")
	if n := len(parts); n >= 3 {
		t.Node = strings.Join(parts[:n-2], "-")
		t.Journal, _ = strconv.ParseUint(parts[n-2], 10, 64)
		t.Number, _ = strconv.ParseUint(parts[n-1], 10, 64)
	}
	return t
}

// pronounce judges the evidence, prints a summary, and fails the test for every violated guarantee.
func (c *Cell) pronounce(e *Evidence) {
	c.t.Helper()
	fmt.Println(e.summary())
	found := Judge(e)
	by := map[string][]string{}
	for _, v := range found {
		by[v.Rule] = append(by[v.Rule], v.What)
	}
	for _, rule := range slices.Sorted(maps.Keys(by)) {
		all := by[rule]
		c.t.Errorf("%s: %d violations\n%s", rule, len(all), strings.Join(all[:min(3, len(all))], "\n"))
	}
	if dir := os.Getenv("CELLS_KEEP"); dir != "" {
		c.keep(filepath.Join(dir, strings.ReplaceAll(c.t.Name(), "/", "-")), e, found)
	}
}

// keep writes the evidence and the gateways' logs to files.
func (c *Cell) keep(dir string, e *Evidence, found []Violation) {
	check.OK(c.t, os.MkdirAll(dir, 0o750))
	for name, what := range map[string]any{"evidence.json": e, "violations.json": found} {
		b, err := json.MarshalIndent(what, "", " ")
		check.OK(c.t, err)
		check.OK(c.t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	for _, n := range c.Nodes {
		if b, err := os.ReadFile(n.Log); err == nil {
			check.OK(c.t, os.WriteFile(filepath.Join(dir, n.Name+".log"), b, 0o600))
		}
	}
}

// summary returns the counts of the evidence.
func (e *Evidence) summary() string {
	said, did, ended := map[string]int{}, map[string]int{}, map[string]int{}
	for _, cmd := range e.Commands {
		for _, a := range cmd.Answers {
			said[a.Call+" "+string(a.Said)]++
		}
	}
	acks, twice := 0, time.Duration(0)
	for _, v := range e.Vehicles {
		acks += len(v.Acked)
		for _, l := range v.Lines {
			did[string(l.What)]++
		}
		all := v.connections()
		for i, old := range all {
			for _, both := range old.beside(all[i+1:]) {
				twice = max(twice, both.to.Sub(both.from))
			}
		}
	}
	for _, ends := range e.Ends {
		if e := ends[0]; e.Missing {
			ended["missing"]++
		} else {
			ended[strings.TrimSpace(e.State+" "+e.Cause)]++
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d commands; answers %v; ends %v\n%d vehicles: %v; %d messages acknowledged, %d records; connected twice for %v at most\n%d events of commands, %d of presence; %d faults:",
		len(e.Commands), said, ended, len(e.Vehicles), did, acks, len(e.Telemetry), twice.Round(time.Millisecond), len(e.Events), len(e.Presence), len(e.Faults))
	for _, f := range e.Faults {
		fmt.Fprintf(&b, "\n  %s to %s %s", clock(f.From), clock(f.To), f.Name)
	}
	return b.String()
}

// percentile returns the p-th percentile.
func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Round(100 * time.Microsecond)
}
