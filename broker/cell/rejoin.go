package cell

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

const (
	// offerings is how often commands are offered again if the server changes after the offers. Then the caller tries
	// again later.
	offerings = 3
	// joinsAtOnce is the number of joins in one pipeline, confirmed by one WAIT. Redis runs a pipeline before it serves
	// other clients.
	joinsAtOnce = 128
	// offersAtOnce bounds the slots of a server that are offered concurrently, recordsAtOnce the commands of a slot.
	offersAtOnce, recordsAtOnce = 8, 16
)

// Offering is what a gateway offers for a slot: its memory of the cell, and every command on its disk whose vehicle or id is in
// the slot. An id may be in another slot than the vehicle, at a server that loses its data alone.
type Offering struct {
	Slot       int
	Memory     Memory
	Remembered iter.Seq2[Record, error]

	joined Joined
	err    error
}

// Rejoin offers what the gateway remembers of slots and registers the gateway, at start and whenever an answer was
// Closed. The answers are those of Join. Until a slot's answer is OK, only Claim may be called for it. A gateway that
// remembers something offers every command on its disk and stores the Memory of the answer before it continues.
//
// Slots are joined per server, in pipelines in the given order: a cluster has 16,384. done is called after each
// pipeline, never concurrently; if it returns false, the rest of that server is skipped.
func (s *Store) Rejoin(ctx context.Context, node string, all []Offering, begins bool, done func(map[int]Joined, error) bool) {
	byServer := map[*redis.Client][]*Offering{}
	for i := range all {
		o := &all[i]
		client, err := s.at(ctx, s.keys.inSlot("mark", o.Slot))
		if err != nil {
			done(nil, fmt.Errorf("%w: joining: %w", ErrAway, err))
			return
		}
		byServer[client] = append(byServer[client], o)
	}
	var mu sync.Mutex
	var servers sync.WaitGroup
	for client, some := range byServer {
		servers.Go(func() {
			for more := true; more && len(some) > 0 && ctx.Err() == nil; {
				n := min(len(some), joinsAtOnce)
				s.rejoin(ctx, client, node, some[:n], begins)
				joined, err := landedOf(some[:n])
				some = some[n:]
				mu.Lock()
				more = done(joined, err) && !errors.Is(err, ErrAway)
				mu.Unlock()
			}
		})
	}
	servers.Wait()
}

// landedOf returns the answers, and the error of those without one.
func landedOf(some []*Offering) (map[int]Joined, error) {
	out := make(map[int]Joined, len(some))
	var failed error
	for _, o := range some {
		if o.err != nil {
			failed = o.err
			continue
		}
		out[o.Slot] = o.joined
	}
	return out, failed
}

// rejoin offers for slots of one server, then joins them.
func (s *Store) rejoin(ctx context.Context, client *redis.Client, node string, some []*Offering, begins bool) {
	for round := range 1 + offerings {
		if round > 0 { // a member has nothing to offer to an open server
			s.offerSome(ctx, some)
		}
		var calls []call
		var asked []*Offering
		for _, o := range some {
			if o.err == nil {
				calls = append(calls, s.join(o.Slot, node, o.Memory, o.joined.Server, begins))
				asked = append(asked, o)
			}
		}
		some = some[:0:0]
		for i, r := range s.together(ctx, client, calls) {
			o := asked[i]
			if o.joined, o.err = joined(r.reply, r.err); o.err == nil && o.joined.Verdict == Moved {
				some = append(some, o) // everything is offered again and must land there
			}
		}
		if len(some) == 0 {
			return
		}
	}
}

// offerSome offers what is remembered of slots and sets each slot's joined.Server to where the offers landed.
func (s *Store) offerSome(ctx context.Context, some []*Offering) {
	var all sync.WaitGroup
	places := make(chan struct{}, offersAtOnce)
	for _, o := range some {
		if !o.Memory.Remembers {
			o.joined.Server = ""
			continue
		}
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			o.joined.Server, o.err = s.offerAll(ctx, o.Slot, o.joined.Server, o.Remembered)
		})
	}
	all.Wait()
}

// offerAll returns the server that all offers landed at, "" if there were several. Without offers it returns the
// expected one.
func (s *Store) offerAll(ctx context.Context, slot int, expected string, remembered iter.Seq2[Record, error]) (string, error) {
	landed, elsewhere, failed := expected, false, error(nil)
	var mu sync.Mutex
	var all sync.WaitGroup
	places := make(chan struct{}, recordsAtOnce)
	note := func(server string, err error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			failed = err
		case landed == "":
			landed = server
		default:
			elsewhere = elsewhere || landed != server
		}
	}
	over := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return elsewhere || failed != nil
	}
	for r, err := range remembered {
		if err != nil {
			note("", fmt.Errorf("reading the state to offer: %w", err))
		}
		if over() {
			break
		}
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			if s.IDSlot(r.ID) == slot {
				a, err := s.offerID(ctx, &r)
				note(a.Server, err)
			}
			if s.Slot(r.VIN) == slot {
				a, err := s.Offer(ctx, r)
				note(a.Server, err)
			}
		})
	}
	all.Wait()
	if elsewhere || failed != nil {
		return "", failed
	}
	return landed, nil
}

// unsalted returns a server's name without the slot's salt.
func unsalted(server string) string { return server[:max(0, strings.LastIndexByte(server, ':'))] }

// answered is the result of one of several calls.
type answered struct {
	reply
	err error
}

// together runs calls of one script on keys of one server in one pipeline. One WAIT confirms them. All answers must have
// the same server's name except for the salts, and its history must be the same afterwards. The caller retries calls whose slot
// has moved.
func (s *Store) together(ctx context.Context, client *redis.Client, calls []call) []answered {
	if len(calls) == 0 {
		return nil
	}
	var waited *redis.Cmd
	var history *redis.StringCmd
	ran := make([]*redis.Cmd, len(calls))
	wait := s.doubts.wait(client, s.confirm.Wait)
	confirm := s.confirm.Replicas > 0
	_, _ = client.Pipelined(ctx, func(p redis.Pipeliner) error { // errors are checked per command
		script := s.scripts[calls[0].script]
		p.ScriptLoad(ctx, script.text)
		for i, c := range calls {
			ran[i] = p.EvalSha(ctx, script.sum, c.keys, c.args...)
		}
		if !confirm {
			return nil
		}
		waited = p.Do(ctx, "WAIT", s.confirm.Replicas, wait.Milliseconds())
		history = p.Info(ctx, "replication")
		return nil
	})
	out, moved := read(calls, ran)
	var unconfirmed error
	first := ""
	if confirm && ran[0].Err() == nil {
		unconfirmed = s.confirmed(client, waited, wait)
		if out[0].err == nil && unconfirmed == nil {
			first, unconfirmed = unsalted(out[0].server), sameHistory(out[0].server, history)
		}
	}
	for i := range out {
		a := &out[i]
		if a.err != nil || !confirm {
			continue
		}
		if a.err = unconfirmed; a.err == nil && unsalted(a.reply.server) != first {
			a.err = errAnother
		}
	}
	if cluster, ok := s.client.(*redis.ClusterClient); ok && moved {
		cluster.ReloadState(ctx)
	}
	return out
}

// read returns the answers of calls, and whether a slot has moved to another server.
func read(calls []call, ran []*redis.Cmd) (out []answered, moved bool) {
	out = make([]answered, len(calls))
	for i := range calls {
		a := &out[i]
		if err := ran[i].Err(); err != nil {
			moved = moved || redis.HasErrorPrefix(err, "MOVED")
			a.err = fmt.Errorf("%s: %w", calls[i].script, failed(err))
		} else {
			a.reply, a.err = parse(ran[i].Val())
		}
	}
	return out, moved
}
