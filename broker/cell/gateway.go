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
	// Start is when the process began.
	Start time.Time
	// Mode is single or several.
	Mode string
	// Runs is JSON: address, version, what rules and configuration it runs.
	Runs string
	// Lives is false for one that has not said so for its TTL, less than a day ago.
	Lives bool
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
	what := map[Verdict]string{
		Taken:    "another gateway has this name: give each its own cell.node",
		Replaced: "a later start of this data_dir has taken over",
		Second:   "cell.gateways is single, and there is another gateway: stop it, or set several at all of them",
	}[e.Verdict]
	return fmt.Sprintf("%s (%s, started %s, %s)", what, e.Other.Node, e.Other.Start.UTC().Format(time.RFC3339), e.Other.Runs)
}

// Alive says that g lives for another ttl, and answers who else does. The error is a *RefusedError when g must not run.
func (s *Store) Alive(ctx context.Context, g Gateway, ttl time.Duration) ([]Gateway, error) {
	r, err := s.do(ctx, call{
		script: "alive", keys: []string{s.keys.slotted("mark", gatewaysKey), gatewaysKey},
		args: []any{g.Node, g.Boot, g.Dir, g.Start.UnixMilli(), g.Mode, ttl.Milliseconds(), g.Runs},
	})
	if err != nil {
		return nil, err
	}
	if r.verdict != OK {
		return nil, &RefusedError{Verdict: r.verdict, Other: Gateway{Node: r.at(0), Start: time.UnixMilli(r.number(1)), Runs: r.at(2), Lives: true}}
	}
	var all []Gateway
	for i := 0; i+5 < len(r.rest); i += 6 {
		all = append(all, Gateway{
			Node: r.rest[i], Boot: r.rest[i+1], Lives: r.rest[i+2] == "1", Start: time.UnixMilli(r.number(i + 3)), Mode: r.rest[i+4], Runs: r.rest[i+5],
		})
	}
	return all, nil
}

// Leave frees the name of a gateway that ends.
func (s *Store) Leave(ctx context.Context, g Gateway) error {
	_, err := s.do(ctx, call{script: "leave", keys: []string{s.keys.slotted("mark", gatewaysKey), gatewaysKey}, args: []any{g.Node, g.Boot}})
	return err
}
