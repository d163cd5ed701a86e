package cell

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Name is a command's.
type Name struct{ VIN, ID string }

// Due lists open commands of a slot whose time is over by this gateway's clock, at most so many, the longest over first. Expire
// decides by Redis' own clock.
func (s *Store) Due(ctx context.Context, slot, most int) ([]Name, error) {
	key := s.keys.inSlot("due", slot)
	client, err := s.at(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("%w: listing due commands: %w", ErrAway, err)
	}
	list, err := client.ZRangeArgs(ctx, redis.ZRangeArgs{
		Key: key, Start: "-inf", Stop: strconv.FormatInt(time.Now().UnixMilli(), 10), ByScore: true, Count: int64(most),
	}).Result()
	if err != nil {
		return nil, fmt.Errorf("%w: listing due commands: %w", ErrAway, err)
	}
	out := make([]Name, 0, len(list))
	for _, member := range list {
		vin, id, _ := strings.Cut(member, "/") // neither holds a slash
		out = append(out, Name{VIN: vin, ID: id})
	}
	return out, nil
}

// Session is a vehicle's connection that no gateway has reported as disconnected.
type Session struct {
	VIN string
	Connection
}

// scanned is how many fields one HSCAN asks for.
const scanned = 256

// Sessions walks over a slot's sessions that have not ended. One that begins or ends meanwhile may be told or not. The walk
// ends with an error when Redis does not answer.
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

// sessionOf reads what claim.lua writes: VIN/epoch, and boot and node.
func sessionOf(field, value string) Session {
	vin, epoch, _ := strings.Cut(field, "/")
	boot, node, _ := strings.Cut(value, " ") // a boot has no space
	out := Session{VIN: vin, Connection: Connection{Node: node, Boot: boot}}
	out.Epoch, _ = strconv.ParseInt(epoch, 10, 64)
	return out
}
