package cell

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Connection identifies the owner of a vehicle: a connection of one boot of a gateway. Epoch is the cell's number for
// it; it rises with every connection of the vehicle.
type Connection struct {
	Node, Boot string
	// Number identifies the connection within a boot of the gateway.
	Number uint64
	Epoch  int64
	// Since is when it began, in ms of Redis' clock.
	Since int64
}

// Claimed is the result of a claim.
type Claimed struct {
	// Verdict is OK, or Older: a younger connection's claim is in force, and this connection must end.
	Verdict Verdict
	// Epoch and Since belong to the claim in force.
	Epoch, Since int64
	// Former is the previous owner, or after Older the current one. Its Node is empty if there was none. A repeated claim
	// of the same connection gets the same one, or c itself if there was none.
	Former Connection
	// Session is the vehicle's stored session, nil if there is none.
	Session []byte
	// Ended is when the previous connection was reported as ended; zero if it was not.
	Ended time.Time
	// Now is Redis' time in ms.
	Now int64
	// Server is the name of the server.
	Server string
}

// Claim records that the vehicle is connected to c, for age or, if c.Since is set, since then. c.Epoch is the epoch of
// an earlier claim for the same connection. With confirm it waits for the replicas; only then may the epoch be
// published. Another gateway that owned the vehicle is sent a Successor.
func (s *Store) Claim(ctx context.Context, vin string, c Connection, age time.Duration, confirm bool) (Claimed, error) {
	vehicle, since := s.keys.vehicle(vin), ""
	if c.Since != 0 {
		since = strconv.FormatInt(c.Since, 10)
	}
	r, err := s.do(ctx, call{
		script: "claim", keys: []string{s.keys.slotted("mark", vehicle), vehicle, s.keys.slotted("sessions", vehicle)},
		args: []any{vin, c.Node, c.Boot, c.Number, age.Milliseconds(), since, c.Epoch, s.keys.notices("")}, confirm: confirm,
	})
	if err != nil {
		return Claimed{}, err
	}
	out := Claimed{Verdict: r.verdict, Epoch: r.number(0), Since: r.number(1), Now: r.now, Server: r.server}
	out.Former = Connection{Node: r.at(2), Boot: r.at(3), Epoch: r.number(5)}
	out.Former.Number, _ = strconv.ParseUint(r.at(4), 10, 64)
	if session := r.at(6); session != "" {
		out.Session = []byte(session)
	}
	if at := r.number(7); at != 0 {
		out.Ended = time.UnixMilli(at)
	}
	return out, nil
}

// StoreSession stores the vehicle's session if c owns the vehicle: OK or NotOwner. An empty session is removed.
func (s *Store) StoreSession(ctx context.Context, vin string, c Connection, session []byte) (Verdict, error) {
	vehicle := s.keys.vehicle(vin)
	r, err := s.do(ctx, call{
		script: "session", keys: []string{s.keys.slotted("mark", vehicle), vehicle},
		args: []any{c.Node, c.Boot, c.Epoch, session}, confirm: true,
	})
	return r.verdict, err
}

// Vehicle is the state of a vehicle in Redis.
type Vehicle struct {
	Owner   Connection
	Session []byte
	// Event, At (ms) and Reason describe its last presence event.
	Event, Reason string
	At            int64
}

// Vehicle reads a vehicle's state: OK or Missing.
func (s *Store) Vehicle(ctx context.Context, vin string) (Vehicle, Verdict, error) {
	vehicle := s.keys.vehicle(vin)
	r, err := s.do(ctx, call{script: "vehicle", keys: []string{s.keys.slotted("mark", vehicle), vehicle}, confirm: true})
	if err != nil || r.verdict != OK {
		return Vehicle{}, r.verdict, err
	}
	f, err := fieldsOf(r.rest)
	if err != nil {
		return Vehicle{}, "", err
	}
	v := Vehicle{Owner: Connection{Node: f["node"], Boot: f["boot"], Epoch: f.number("epoch"), Since: f.number("since")}, Event: f["event"], Reason: f["reason"], At: f.number("at")}
	v.Owner.Number = uint64(f.number("conn"))
	if f["session"] != "" {
		v.Session = []byte(f["session"])
	}
	return v, r.verdict, nil
}

// Numbered is a presence event with its number.
type Numbered struct {
	Seq    uint64
	At     time.Time
	Reason string
}

// Presence numbers an event (connected, ready, disconnected) of the connection c. last is the number of its last event, 0 if unknown.
// It answers OK; Already when the end
// of that connection is in Kafka; Missing when Redis has lost the session; NotOwner when the epoch belongs to another
// boot. If the end was numbered before and is not yet in Kafka, it returns the same number and words.
func (s *Store) Presence(ctx context.Context, vin string, c Connection, event, reason string, at time.Time, last uint64) (Numbered, Verdict, error) {
	vehicle := s.keys.vehicle(vin)
	r, err := s.do(ctx, call{
		script: "presence", keys: []string{s.keys.slotted("mark", vehicle), vehicle, s.keys.slotted("sessions", vehicle)},
		args: []any{vin, c.Node, c.Boot, c.Epoch, event, at.UnixMilli(), reason, last}, confirm: true,
	})
	if err != nil || r.verdict != OK {
		return Numbered{}, r.verdict, err
	}
	return Numbered{Seq: uint64(r.number(0)), At: time.UnixMilli(r.number(1)), Reason: r.at(2)}, r.verdict, nil
}

// EndPublished records that the end of a connection is in Kafka. Until then Sessions includes it.
func (s *Store) EndPublished(ctx context.Context, vin string, epoch int64) error {
	key := s.keys.slotted("sessions", s.keys.vehicle(vin))
	_, err := s.do(ctx, call{script: "told", keys: []string{s.keys.slotted("mark", key), key}, args: []any{vin, epoch}})
	return err
}

// Held describes a vehicle's last claim.
type Held struct {
	Connection
	// Claimed is when the claim was made, in ms of Redis' clock. For a claim by an earlier build it is the epoch.
	Claimed int64
	// Ended reports whether its disconnected event was numbered.
	Ended bool
}

// Held reads the last claims of vehicles, in the order of vins. It changes no state.
func (s *Store) Held(ctx context.Context, vins []string) ([]Held, error) {
	names := []string{"node", "boot", "conn", "epoch", "event", "claimed"}
	cmds := make([]*redis.SliceCmd, len(vins))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, vin := range vins {
			cmds[i] = p.HMGet(ctx, s.keys.vehicle(vin), names...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: reading claims: %w", ErrAway, err)
	}
	out := make([]Held, len(vins))
	for i, cmd := range cmds {
		f := fields{}
		for n, name := range names {
			f[name], _ = cmd.Val()[n].(string)
		}
		out[i] = Held{Connection: Connection{Node: f["node"], Boot: f["boot"], Number: uint64(f.number("conn")), Epoch: f.number("epoch")}, Ended: f["event"] == "disconnected"}
		out[i].Claimed = max(f.number("claimed"), out[i].Epoch)
	}
	return out, nil
}

// fields maps field names to values.
type fields map[string]string

func fieldsOf(list []string) (fields, error) {
	if len(list)%2 != 0 {
		return nil, fmt.Errorf("%w: a script answered a name without a value: %q", ErrAway, list)
	}
	f := make(fields, len(list)/2)
	for i := 0; i < len(list); i += 2 {
		f[list[i]] = list[i+1]
	}
	return f, nil
}

func (f fields) number(name string) int64 {
	n, _ := strconv.ParseInt(f[name], 10, 64)
	return n
}
