package cell

import (
	"context"
	"fmt"
	"time"
)

// Gateway is a process that serves the cell.
type Gateway struct {
	// Node is its configured name, Boot names the process, Dir its data_dir (a random name that is kept there).
	Node, Boot, Dir string
	// Start is when the process began, Boots how often one has begun on this data_dir: the later one replaces the other, whatever
	// the clock showed.
	Start time.Time
	Boots uint64
	// Mode is single or several.
	Mode string
	// Runs is JSON: address, version, what rules and configuration it runs.
	Runs string
	// Lives is false for one that has not said so for its TTL, less than a day ago. Until is when its TTL ends, by Redis' time,
	// as a RefusedError tells it.
	Lives bool
	Until time.Time
}

// RefusedError says that this gateway must not run, because of another one.
type RefusedError struct {
	// Verdict is Taken: another data_dir lives under this node's name; Replaced: a later boot of this data_dir does; Second:
	// one of the two is of a cell with a single gateway.
	Verdict Verdict
	Other   Gateway
}

// Error names the gateway that is there, and what to do.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s (%s, started %s, %s)", e.Remedy(), e.Other.Node, e.Other.Start.UTC().Format(time.RFC3339), e.Other.Runs)
}

// Remedy says what to do.
func (e *RefusedError) Remedy() string {
	switch e.Verdict {
	case Taken:
		return "another gateway has this name: give each its own cell.node"
	case Replaced:
		return "a later start of this data_dir has taken over"
	}
	return "cell.gateways is single, and there is another gateway: stop it, or set several at all of them"
}

// Living is who lives.
type Living struct {
	Gateways []Gateway // the caller among them
	// Server is what the server is called that has told this.
	Server string
}

// Alive says that g lives for another ttl, and answers who else does. The error is a *RefusedError when g must not run.
func (s *Store) Alive(ctx context.Context, g Gateway, ttl time.Duration) (Living, error) {
	r, err := s.do(ctx, call{
		script: "alive", keys: []string{s.keys.slotted("mark", s.keys.gateways()), s.keys.gateways()},
		args: []any{g.Node, g.Boot, g.Dir, g.Start.UnixMilli(), g.Mode, ttl.Milliseconds(), g.Boots, g.Runs},
	})
	if err != nil {
		return Living{}, err
	}
	if r.verdict != OK {
		return Living{}, &RefusedError{Verdict: r.verdict, Other: Gateway{
			Node: r.at(0), Start: time.UnixMilli(r.number(1)), Runs: r.at(2), Until: time.UnixMilli(r.number(3)), Lives: true,
		}}
	}
	all := Living{Server: r.server}
	for i := 0; i+5 < len(r.rest); i += 6 {
		all.Gateways = append(all.Gateways, Gateway{
			Node: r.rest[i], Boot: r.rest[i+1], Lives: r.rest[i+2] == "1", Start: time.UnixMilli(r.number(i + 3)), Mode: r.rest[i+4], Runs: r.rest[i+5],
		})
	}
	return all, nil
}

// Leave frees the name of a gateway that ends.
func (s *Store) Leave(ctx context.Context, g Gateway) error {
	_, err := s.do(ctx, call{script: "leave", keys: []string{s.keys.slotted("mark", s.keys.gateways()), s.keys.gateways()}, args: []any{g.Node, g.Boot}})
	return err
}
