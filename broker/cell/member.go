package cell

import (
	"context"
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
	r, err := s.do(ctx, s.join(slot, node, m, offers, begins))
	return joined(r, err)
}

func (s *Store) join(slot int, node string, m Memory, offers string, begins bool) call {
	args := []any{node, flag(m.Remembers), m.Gen, m.Floor, offers, flag(begins)}
	for _, name := range m.Members {
		args = append(args, name)
	}
	return call{script: "join", keys: []string{s.keys.inSlot("mark", slot)}, args: args, confirm: true}
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

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
