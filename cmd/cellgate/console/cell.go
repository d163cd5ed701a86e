package console

import (
	"math"
	"time"

	"cellgate/cmd/cellgate/human"
)

// cellStatus is the part of GET /v1/status that the Cell page shows.
type cellStatus struct {
	Cell, Region, Node, Phase string
	Build                     struct{ Version, Commit string }
	Uptime                    string
	Connections               int
	Journal                   struct {
		Bytes    int64
		MaxBytes int64 `json:"max_bytes"`
		Oldest   time.Time
		Full     string
	}
	Rules struct {
		Hash  string
		Rules int
		Error string
	}
	Sinks []struct {
		Sink       string
		LagRecords uint64  `json:"lag_records"`
		LagSeconds float64 `json:"lag_seconds"`
		LogBytes   int64   `json:"log_bytes"`
		Live       bool
	}
	Parked []struct {
		Sink, Destination, Reason string
		Messages                  uint64
		Bytes                     int64
		Since                     time.Time
	}
	Dependencies []dependency
	Commands     struct {
		Open    int
		Kept    int
		Waiting int `json:"events_waiting"`
	}
	Lanes []struct {
		Lane       string
		LagRecords *int64   `json:"lag_records"`
		LagSeconds *float64 `json:"lag_seconds"`
		Gaps       []struct{ Reason string }
	}
	Gateways []gatewayLine // in a cell of several
}

// gatewayLine is a gateway of the cell.
type gatewayLine struct {
	Node, Address, Version, Phase string
	Started                       time.Time
	Lives                         bool
	Connections                   int
	Differs                       []string
	// Here is true for the gateway that serves this console.
	Here bool `json:"-"`
}

// dependency is something that delivery depends on.
type dependency struct {
	Name   string
	OK     bool
	Since  time.Time
	Reason string
}

// tile is a figure at the top of the page.
type tile struct {
	Name, Value, Note string
	Bad               bool
}

// cellBody is the Cell page.
type cellBody struct {
	cellStatus
	Degraded []dependency
	Tiles    []tile
	Charts   []*chart
	Parts    []devPart
}

func (v *visit) cell() (any, error) {
	b := &cellBody{}
	if err := v.call("GET", "/v1/status", nil, &b.cellStatus); err != nil {
		return nil, err
	}
	for _, d := range b.Dependencies {
		if !d.OK {
			b.Degraded = append(b.Degraded, d)
		}
	}
	for i := range b.Gateways {
		b.Gateways[i].Here = b.Gateways[i].Node == v.c.o.Node
	}
	all := v.c.history.samples()
	b.Charts = charts(all)
	now := sample{rate: math.NaN(), p99: math.NaN()}
	if len(all) > 0 {
		now = all[len(all)-1]
	}
	b.Tiles = []tile{
		{Name: "Connected", Value: groups(float64(b.Connections)), Note: "clients"},
		{Name: "Received", Value: known(now.rate, rateUnit), Note: "messages, last 10 s"},
		{Name: "PUBACK, 99 %", Value: known(now.p99*1000, millisUnit), Note: "last 10 s"},
		{Name: "Journal", Value: human.Size(b.Journal.Bytes), Note: "of " + human.Size(b.Journal.MaxBytes)},
		{Name: "Disk ladder", Value: rungs[min(max(int(now.rung), 0), len(rungs)-1)], Note: percentUnit(math.Round(now.used*1000)/10) + " of room used", Bad: now.rung > 0},
		{Name: "Commands", Value: groups(float64(b.Commands.Open)), Note: "open"},
	}
	b.Parts = v.devParts()
	return b, nil
}

// rungs names the rungs of the disk ladder.
var rungs = []string{"normal", "alarm", "QoS 0 dropped", "no new clients", "reading stopped"}

func known(value float64, unit func(float64) string) string {
	if math.IsNaN(value) {
		return "-"
	}
	return unit(value)
}

// devPart is a part embedded by `cellgate dev`.
type devPart struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Running bool   `json:"running"`
}

// devParts returns the parts of `cellgate dev`; none otherwise.
func (v *visit) devParts() []devPart {
	var answer struct{ Parts []devPart }
	_ = v.call("GET", "/v1/dev/parts", nil, &answer) //nolint:errcheck // only dev has the call
	return answer.Parts
}

// ledgerLine is a sink's account.
type ledgerLine struct {
	Sink                          string
	Received, Delivered, Filtered uint64
	DeadLettered                  uint64 `json:"dead_lettered"`
	Dropped                       map[string]uint64
	Pending, Unevaluated          uint64
	OldestSeconds                 float64 `json:"oldest_seconds"`
	Balanced                      bool
}

// DroppedSum is the sum of what was dropped for any reason.
func (l *ledgerLine) DroppedSum() (n uint64) {
	for _, d := range l.Dropped {
		n += d
	}
	return n
}

func (v *visit) ledger() (any, error) {
	var answer struct{ Sinks []*ledgerLine }
	err := v.call("GET", "/v1/ledger", nil, &answer)
	return answer, err
}
