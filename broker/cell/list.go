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

// Due lists up to most open commands of a slot that have been overdue for at least since by this gateway's clock,
// longest overdue first. Expire decides by Redis' own clock.
func (s *Store) Due(ctx context.Context, slot, most int, since time.Duration) ([]Name, error) {
	key := s.keys.inSlot("due", slot)
	client, err := s.at(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("%w: listing due commands: %w", ErrAway, err)
	}
	list, err := client.ZRangeArgs(ctx, redis.ZRangeArgs{
		Key: key, Start: "-inf", Stop: strconv.FormatInt(time.Now().Add(-since).UnixMilli(), 10), ByScore: true, Count: int64(most),
	}).Result()
	if err != nil {
		return nil, fmt.Errorf("%w: listing due commands: %w", ErrAway, err)
	}
	out := make([]Name, 0, len(list))
	for _, member := range list {
		vin, id, _ := strings.Cut(member, "/") // neither contains a slash
		out = append(out, Name{VIN: vin, ID: id})
	}
	return out, nil
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

// scan reads part of a sorted set of names. next is the cursor of the next part, 0 after the last.
func (s *Store) scan(ctx context.Context, key string, cursor uint64) (names []Name, next uint64, err error) {
	client, err := s.at(ctx, key)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: listing commands: %w", ErrAway, err)
	}
	list, next, err := client.ZScan(ctx, key, cursor, "", scanned).Result()
	if err != nil {
		return nil, 0, fmt.Errorf("%w: listing commands: %w", ErrAway, err)
	}
	for i := 0; i+1 < len(list); i += 2 { // member and score
		vin, id, _ := strings.Cut(list[i], "/")
		names = append(names, Name{VIN: vin, ID: id})
	}
	return names, next, nil
}

// OpenCommands scans a slot's open commands, unordered. One may come twice.
func (s *Store) OpenCommands(ctx context.Context, slot int, cursor uint64) (names []Name, next uint64, err error) {
	return s.scan(ctx, s.keys.inSlot("due", slot), cursor)
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
