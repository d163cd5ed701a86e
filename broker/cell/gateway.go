package cell

import (
	"context"
	"fmt"
	"time"
)

// Gateway is a process that serves the cell.
type Gateway struct {
	// Node is its configured name, Boot identifies the process, Dir its data_dir (a random name stored there).
	Node, Boot, Dir string
	// Start is when the process began. Boots counts the starts on this data_dir: the higher count replaces the lower,
	// whatever the clocks showed.
	Start time.Time
	Boots uint64
	// Mode is single or several.
	Mode string
	// Runs is JSON: address, version, and the running rules and configuration.
	Runs string
	// Lives is false once its TTL has ended; such a gateway is listed for another day. Until is the end of its TTL by
	// Redis' clock, set in a RefusedError.
	Lives bool
	Until time.Time
}

// RefusedError means that this gateway must not run because of another one.
type RefusedError struct {
	// Verdict is Taken (another data_dir uses this node's name), Replaced (a later boot of this data_dir is alive),
	// or Second (one of the two belongs to a cell with a single gateway).
	Verdict Verdict
	Other   Gateway
}

// Error names the other gateway and the remedy.
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

// Alive renews g for another ttl. It returns the gateways that live or lived in the last day, g among them, and the name of the server
// that answered. The error is a *RefusedError if g must not run, ErrLeft if it has left.
func (s *Store) Alive(ctx context.Context, g Gateway, ttl time.Duration) (all []Gateway, server string, err error) {
	r, err := s.do(ctx, call{
		script: "alive", keys: []string{s.keys.slotted("mark", s.keys.gateways()), s.keys.gateways()},
		args: []any{g.Node, g.Boot, g.Dir, g.Start.UnixMilli(), g.Mode, ttl.Milliseconds(), g.Boots, g.Runs},
	})
	if err != nil {
		return nil, "", err
	}
	switch r.verdict {
	case OK:
	case Closed:
		return nil, "", ErrLeft
	default:
		return nil, "", &RefusedError{Verdict: r.verdict, Other: Gateway{
			Node: r.at(0), Start: time.UnixMilli(r.number(1)), Runs: r.at(2), Until: time.UnixMilli(r.number(3)), Lives: true,
		}}
	}
	for i := 0; i+5 < len(r.rest); i += 6 {
		all = append(all, Gateway{
			Node: r.rest[i], Boot: r.rest[i+1], Lives: r.rest[i+2] == "1", Start: time.UnixMilli(r.number(i + 3)), Mode: r.rest[i+4], Runs: r.rest[i+5],
		})
	}
	return all, r.server, nil
}

// Leave releases the name of a stopping gateway. A heartbeat of g that is still under way has no effect then.
func (s *Store) Leave(ctx context.Context, g Gateway) error {
	_, err := s.do(ctx, call{script: "leave", keys: []string{s.keys.slotted("mark", s.keys.gateways()), s.keys.gateways()}, args: []any{g.Node, g.Boot}})
	return err
}
