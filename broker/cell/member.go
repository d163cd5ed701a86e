package cell

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Memory is what a gateway remembers of the cell for one slot.
type Memory struct {
	// Remembers is false if the disk is new: there may have been another.
	Remembers bool
	// Gen is the highest known generation; since Floor no member has lost its memory.
	Gen, Floor uint64
	// Members are the known nodes, with or without itself.
	Members []string
}

// Joined is the result of a join.
type Joined struct {
	// Verdict is OK; Waiting (for the members with value false); Moved (the offers went to another server); or Empty
	// (no member is registered, and the caller remembers nothing).
	Verdict    Verdict
	Gen, Floor uint64
	Members    map[string]bool
	Server     string
}

// Join registers node in a slot. offers is the server that answered its offers there, "" if it made none. begins says
// that no gateway knows the cell and this one begins it.
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

// Registration is a slot's record of a member.
type Registration struct {
	// There means that the node is a member, Forgotten that Forget removed it, Caller that the caller is a member.
	There, Forgotten, Caller bool
}

// Registered reads a slot's registration of a member.
func (s *Store) Registered(ctx context.Context, slot int, node, caller string) (Registration, error) {
	v, err := s.client.HMGet(ctx, s.keys.inSlot("mark", slot), "m:"+node, "x:"+node, "m:"+caller).Result()
	if err != nil {
		return Registration{}, fmt.Errorf("%w: asking for members: %w", ErrAway, err)
	}
	return Registration{There: v[0] != nil, Forgotten: v[1] != nil, Caller: v[2] != nil}, nil
}

// Forget removes a member permanently: OK or Waiting. Its memory counts as lost. The caller must be a member, and must
// join afterwards as usual: Forget does not make its offers.
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

// Memory returns what the caller must remember after joining.
func (j *Joined) Memory() Memory {
	return Memory{Remembers: true, Gen: j.Gen, Floor: j.Floor, Members: slices.Sorted(maps.Keys(j.Members))}
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
