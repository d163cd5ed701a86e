package cell

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
)

// Memory is what a gateway remembers of the cell, for one slot.
type Memory struct {
	// Remembers is false when its disk is new: there may have been another.
	Remembers bool
	// Gen is the highest generation that it knows, Floor the one from which on no member's memory is missing.
	Gen, Floor uint64
	// Members are the nodes that it knows, itself among them or not.
	Members []string
}

// Joined is what join has come to.
type Joined struct {
	// Verdict is OK; Waiting for the members whose value is false; Moved: the offers went to another server; Empty: nobody
	// is registered, and the caller remembers nothing.
	Verdict    Verdict
	Gen, Floor uint64
	Members    map[string]bool
	Server     string
}

// Join registers node in a slot. offers is the server that has answered its offers there, "" if it made none. begins: nobody
// knows anything of this cell, and this gateway begins it.
func (s *Store) Join(ctx context.Context, slot int, node string, m Memory, offers string, begins bool) (Joined, error) {
	args := []any{node, flag(m.Remembers), m.Gen, m.Floor, offers, flag(begins)}
	for _, name := range m.Members {
		args = append(args, name)
	}
	r, err := s.do(ctx, call{script: "join", keys: []string{s.keys.inSlot("mark", slot)}, args: args, confirm: true})
	return joined(r, err)
}

// Forget takes a member off for good: OK or Waiting. What it remembered is gone.
func (s *Store) Forget(ctx context.Context, slot int, gone string, m Memory) (Joined, error) {
	args := []any{gone}
	for _, name := range m.Members {
		args = append(args, name)
	}
	r, err := s.do(ctx, call{script: "forget", keys: []string{s.keys.inSlot("mark", slot)}, args: args, confirm: true})
	return joined(r, err)
}

func joined(r reply, err error) (Joined, error) {
	if err != nil {
		return Joined{}, err
	}
	out := Joined{Verdict: r.verdict, Gen: uint64(r.number(0)), Floor: uint64(r.number(1)), Members: map[string]bool{}, Server: r.server}
	for i := 2; i+1 < len(r.rest); i += 2 {
		out.Members[r.rest[i]] = r.rest[i+1] == "1"
	}
	return out, nil
}

// Memory is what the caller is to remember after it has joined.
func (j *Joined) Memory() Memory {
	return Memory{Remembers: true, Gen: j.Gen, Floor: j.Floor, Members: slices.Sorted(maps.Keys(j.Members))}
}

// offerings is how often Rejoin begins anew when Redis is another server after its offers than before. The caller tries again later.
const offerings = 3

// Rejoin offers what the gateway remembers of a slot, and registers it: at its start, and whenever an answer was Closed. Its answers
// are those of Join; before it is OK nothing else of this package may be called for that slot but Claim. A gateway that remembers
// something offers every command that it has on its disk, and keeps the Memory of the answer there before it goes on.
func (s *Store) Rejoin(ctx context.Context, slot int, node string, m Memory, remembered iter.Seq2[Record, error], begins bool) (Joined, error) {
	var j Joined
	var landed string
	for range offerings {
		var err error
		if m.Remembers {
			if landed, err = s.offerAll(ctx, landed, remembered); err != nil {
				return Joined{}, err
			}
		}
		if j, err = s.Join(ctx, slot, node, m, landed, begins); err != nil || j.Verdict != Moved {
			return j, err
		}
		landed = j.Server // all is offered again, and has to land there
	}
	return j, nil
}

// offerAll answers which server all offers have landed at, "" when they have landed at several. With nothing to offer it is the
// one that is expected.
func (s *Store) offerAll(ctx context.Context, expected string, remembered iter.Seq2[Record, error]) (string, error) {
	landed := expected
	for r, err := range remembered {
		if err != nil {
			return "", fmt.Errorf("reading what is to be offered: %w", err)
		}
		a, err := s.Offer(ctx, r)
		if err != nil {
			return "", err
		}
		if landed == "" {
			landed = a.Server
		}
		if a.Server != landed {
			return "", nil
		}
	}
	return landed, nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
