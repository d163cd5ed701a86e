package cell

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Name identifies a command.
type Name struct{ VIN, ID string }

// Sweep is what Store.Sweep reads of a slot's open commands.
type Sweep struct {
	Slot   int
	Cursor uint64 // where Open continues the next time; 0 is the beginning
	// Due are up to the requested number of commands that have been overdue for at least the requested time by this gateway's
	// clock, longest overdue first. Expire decides by Redis' own clock.
	Due []Name
	// Open are some of all open commands, unordered. One may come twice.
	Open []Name
	Err  error
}

// Sweep reads slots, in one call to each server.
func (s *Store) Sweep(ctx context.Context, slots []Sweep, most int, since time.Duration) {
	at := map[*redis.Client][]*Sweep{}
	for i := range slots {
		one := &slots[i]
		client, err := s.at(ctx, s.keys.inSlot("due", one.Slot))
		if one.Err = err; err == nil {
			at[client] = append(at[client], one)
		}
	}
	until := strconv.FormatInt(time.Now().Add(-since).UnixMilli(), 10)
	for client, some := range at {
		due, open := make([]*redis.StringSliceCmd, len(some)), make([]*redis.ScanCmd, len(some))
		_, _ = client.Pipelined(ctx, func(p redis.Pipeliner) error { // each call has its own error
			for i, one := range some {
				key := s.keys.inSlot("due", one.Slot)
				due[i] = p.ZRangeArgs(ctx, redis.ZRangeArgs{Key: key, Start: "-inf", Stop: until, ByScore: true, Count: int64(most)})
				open[i] = p.ZScan(ctx, key, one.Cursor, "", scanned)
			}
			return nil
		})
		for i, one := range some {
			one.read(due[i], open[i])
		}
	}
}

func (o *Sweep) read(due *redis.StringSliceCmd, open *redis.ScanCmd) {
	list, next := open.Val()
	if o.Err = errors.Join(due.Err(), open.Err()); o.Err != nil {
		return
	}
	o.Cursor = next
	for _, member := range due.Val() {
		o.Due = append(o.Due, nameOf(member))
	}
	for i := 0; i+1 < len(list); i += 2 { // member and score
		o.Open = append(o.Open, nameOf(list[i]))
	}
}

func nameOf(member string) Name {
	vin, id, _ := strings.Cut(member, "/") // neither contains a slash
	return Name{VIN: vin, ID: id}
}

// Session is a vehicle's connection that no gateway has reported as disconnected.
type Session struct {
	VIN string
	Connection
	// Ended is the recorded end that is not yet in Kafka; nil while the connection has not ended.
	Ended *Numbered
}

// scanned is the COUNT of one HSCAN.
const scanned = 256

// Sessions iterates over a slot's sessions whose end is not yet in Kafka. One that begins or ends meanwhile may be
// missing or included. The iteration ends with an error when Redis does not answer.
func (s *Store) Sessions(ctx context.Context, slot int) iter.Seq2[Session, error] {
	return func(yield func(Session, error) bool) {
		key := s.keys.inSlot("sessions", slot)
		client, err := s.at(ctx, key)
		for cursor := uint64(0); err == nil; {
			var list []string
			if list, cursor, err = client.HScan(ctx, key, cursor, "", scanned).Result(); err != nil {
				break
			}
			for i := 0; i+1 < len(list); i += 2 {
				if !yield(sessionOf(list[i], list[i+1]), nil) {
					return
				}
			}
			if cursor == 0 {
				return
			}
		}
		yield(Session{}, fmt.Errorf("%w: listing sessions: %w", ErrAway, err))
	}
}

// sessionOf parses what claim.lua and presence.lua write: VIN/epoch, and boot and node; after the end also seq, at and
// reason.
func sessionOf(field, value string) Session {
	vin, epoch, _ := strings.Cut(field, "/")
	boot, node, _ := strings.Cut(value, " ") // neither contains a space
	node, end, ended := strings.Cut(node, " ")
	out := Session{VIN: vin, Connection: Connection{Node: node, Boot: boot}}
	out.Epoch, _ = strconv.ParseInt(epoch, 10, 64)
	if ended {
		seq, rest, _ := strings.Cut(end, " ")
		at, reason, _ := strings.Cut(rest, " ")
		f := fields{"seq": seq, "at": at}
		out.Ended = &Numbered{Seq: uint64(f.number("seq")), At: time.UnixMilli(f.number("at")), Reason: reason}
	}
	return out
}

// OpenOf lists the ids of up to most open commands of a vehicle below a number, in order.
func (s *Store) OpenOf(ctx context.Context, vin string, below uint64, most int) ([]string, error) {
	key := s.keys.opened(vin)
	client, err := s.at(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("%w: listing a vehicle's commands: %w", ErrAway, err)
	}
	ids, err := client.ZRangeArgs(ctx, redis.ZRangeArgs{
		Key: key, Start: "-inf", Stop: "(" + strconv.FormatUint(below, 10), ByScore: true, Count: int64(most),
	}).Result()
	if err != nil {
		return nil, fmt.Errorf("%w: listing a vehicle's commands: %w", ErrAway, err)
	}
	return ids, nil
}

// VehicleOf returns the vehicle that an id is reserved for, "" for none. It is not confirmed; reading the command
// itself is.
func (s *Store) VehicleOf(ctx context.Context, id string) (string, error) {
	key := s.keys.reservation(id)
	client, err := s.at(ctx, key)
	if err != nil {
		return "", fmt.Errorf("%w: reading the vehicle of an id: %w", ErrAway, err)
	}
	owner, err := client.Get(ctx, key).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("%w: reading the vehicle of an id: %w", ErrAway, err)
	}
	end := max(strings.LastIndexByte(owner, ' '), 0) // a VIN may contain spaces, a digest does not
	return owner[:end], nil
}

// Place is the cursor of a list of a cell's commands: open ones first, then ended ones, each slot's latest first.
type Place struct {
	Ended bool
	Slot  int
	// Score and Member are those of the last listed command; Member is empty at the beginning of a slot.
	Score  int64
	Member string
}

// probed is how many slots one pipeline checks for entries.
const probed = 1024

// Page lists up to most commands from a cursor and returns the next cursor, nil after the last. It is not confirmed: a
// failover may take back what it shows.
func (s *Store) Page(ctx context.Context, from Place, most int) ([]Name, *Place, error) {
	for {
		found, err := s.nextSlot(ctx, from)
		switch {
		case err != nil:
			return nil, nil, err
		case found == nil && from.Ended:
			return nil, nil, nil
		case found == nil:
			from = Place{Ended: true}
			continue
		}
		names, behind, err := s.pageOf(ctx, *found, most)
		if err != nil || len(names) > 0 {
			return names, &behind, err
		}
		from = Place{Ended: found.Ended, Slot: found.Slot + 1}
	}
}

func (s *Store) listKey(p Place) string {
	if p.Ended {
		return s.keys.inSlot("ended", p.Slot)
	}
	return s.keys.inSlot("due", p.Slot)
}

// nextSlot finds the first slot with an entry, starting at p.
func (s *Store) nextSlot(ctx context.Context, p Place) (*Place, error) {
	for p.Slot < s.Slots() {
		if p.Member != "" || s.Slots() == 1 {
			return &p, nil
		}
		end := min(p.Slot+probed, s.Slots())
		counts := make([]*redis.IntCmd, 0, end-p.Slot)
		if _, err := s.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for slot := p.Slot; slot < end; slot++ {
				counts = append(counts, pipe.ZCard(ctx, s.listKey(Place{Ended: p.Ended, Slot: slot})))
			}
			return nil
		}); err != nil {
			return nil, fmt.Errorf("%w: listing commands: %w", ErrAway, err)
		}
		for i, n := range counts {
			if n.Val() > 0 {
				return &Place{Ended: p.Ended, Slot: p.Slot + i}, nil
			}
		}
		p.Slot = end
	}
	return nil, nil
}

// pageOf lists part of a slot.
func (s *Store) pageOf(ctx context.Context, p Place, most int) ([]Name, Place, error) {
	key, latest := s.listKey(p), "+inf"
	if p.Member != "" {
		latest = strconv.FormatInt(p.Score, 10)
	}
	client, err := s.at(ctx, key)
	if err != nil {
		return nil, p, fmt.Errorf("%w: listing commands: %w", ErrAway, err)
	}
	for skip := int64(0); ; skip += int64(most) {
		list, err := client.ZRangeArgsWithScores(ctx, redis.ZRangeArgs{
			Key: key, Start: latest, Stop: "-inf", ByScore: true, Rev: true, Offset: skip, Count: int64(most),
		}).Result()
		if err != nil {
			return nil, p, fmt.Errorf("%w: listing commands: %w", ErrAway, err)
		}
		var names []Name
		for _, z := range list {
			member, _ := z.Member.(string)
			if score := int64(z.Score); p.Member == "" || score < p.Score || score == p.Score && member < p.Member {
				vin, id, _ := strings.Cut(member, "/")
				names = append(names, Name{VIN: vin, ID: id})
				p.Score, p.Member = score, member
			}
		}
		if len(names) > 0 || len(list) < most {
			return names, p, nil
		}
	}
}

// Records reads commands and leaves out those that no longer exist. It is not confirmed.
func (s *Store) Records(ctx context.Context, names []Name) ([]Record, error) {
	got := make([]*redis.MapStringStringCmd, 0, len(names))
	if _, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, n := range names {
			got = append(got, p.HGetAll(ctx, s.keys.command(n.VIN, n.ID)))
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("%w: reading commands: %w", ErrAway, err)
	}
	var out []Record
	for _, g := range got {
		if f := g.Val(); f["state"] != "" {
			out = append(out, recordOfFields(f))
		}
	}
	return out, nil
}
