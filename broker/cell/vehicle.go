package cell

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Connection is who has a vehicle: a connection of a boot of a gateway. Epoch is what the cell calls it; it rises with every
// connection of the vehicle.
type Connection struct {
	Node, Boot string
	// Number tells the gateway's connections apart, within a boot.
	Number uint64
	Epoch  int64
	// Since is when it began, by Redis' time in ms.
	Since int64
}

// Claimed is what a claim has come to.
type Claimed struct {
	// Verdict is OK, or Older: the claim of a younger connection stands, and this one is to end.
	Verdict Verdict
	// Epoch and Since of the claim that stands.
	Epoch, Since int64
	// Former had the vehicle before, or has it still after Older. Its Node is empty when nobody had.
	Former Connection
	// Session is what the vehicle's session was stored as, nil if there is none.
	Session []byte
	// Ended is when the connection before was said to have ended; zero when it was not.
	Ended time.Time
	// Now is Redis' time in ms.
	Now int64
	// Server is what the server is called.
	Server string
}

// Claim says that the vehicle is connected to c, since age ago or, when c.Since is known, since then. c.Epoch is the epoch of
// an earlier claim for the same connection. confirm: wait for the replicas, after which the epoch may be told. Another gateway that had
// the vehicle is sent a Successor.
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

// StoreSession stores the vehicle's session if c is its owner: OK or NotOwner. An empty one is removed.
func (s *Store) StoreSession(ctx context.Context, vin string, c Connection, session []byte) (Verdict, error) {
	vehicle := s.keys.vehicle(vin)
	r, err := s.do(ctx, call{
		script: "session", keys: []string{s.keys.slotted("mark", vehicle), vehicle},
		args: []any{c.Node, c.Boot, c.Epoch, session}, confirm: true,
	})
	return r.verdict, err
}

// Vehicle is what Redis knows of a vehicle.
type Vehicle struct {
	Owner   Connection
	Session []byte
	// Event, At (ms) and Reason of its last presence.
	Event, Reason string
	At            int64
}

// Vehicle reads what Redis knows of a vehicle: OK or Missing.
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

// Numbered is an event of a connection as it is told.
type Numbered struct {
	Seq    uint64
	At     time.Time
	Reason string
}

// Presence numbers an event (connected, ready, disconnected) of the connection c: OK, or Already when the end of that connection has
// been told; Missing when Redis has lost it; NotOwner when the
// epoch is another boot's. An end that was said before, and not told, is answered as it was said.
func (s *Store) Presence(ctx context.Context, vin string, c Connection, event, reason string, at time.Time) (Numbered, Verdict, error) {
	vehicle := s.keys.vehicle(vin)
	r, err := s.do(ctx, call{
		script: "presence", keys: []string{s.keys.slotted("mark", vehicle), vehicle, s.keys.slotted("sessions", vehicle)},
		args: []any{vin, c.Node, c.Boot, c.Epoch, event, at.UnixMilli(), reason}, confirm: true,
	})
	if err != nil || r.verdict != OK {
		return Numbered{}, r.verdict, err
	}
	return Numbered{Seq: uint64(r.number(0)), At: time.UnixMilli(r.number(1)), Reason: r.at(2)}, r.verdict, nil
}

// Told says that the end of a connection is in Kafka. Until then Sessions tells of it.
func (s *Store) Told(ctx context.Context, vin string, epoch int64) error {
	key := s.keys.slotted("sessions", s.keys.vehicle(vin))
	_, err := s.do(ctx, call{script: "told", keys: []string{s.keys.slotted("mark", key), key}, args: []any{vin, epoch}})
	return err
}

// Held is what a vehicle's last claim shows.
type Held struct {
	Connection
	// Ended: its disconnected was said.
	Ended bool
}

// Held reads the last claims of vehicles, in their order. It decides nothing.
func (s *Store) Held(ctx context.Context, vins []string) ([]Held, error) {
	cmds := make([]*redis.SliceCmd, len(vins))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, vin := range vins {
			cmds[i] = p.HMGet(ctx, s.keys.vehicle(vin), "node", "boot", "conn", "epoch", "event")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: reading claims: %w", ErrAway, err)
	}
	out := make([]Held, len(vins))
	for i, cmd := range cmds {
		f := fields{}
		for n, name := range []string{"node", "boot", "conn", "epoch", "event"} {
			f[name], _ = cmd.Val()[n].(string)
		}
		out[i] = Held{Connection: Connection{Node: f["node"], Boot: f["boot"], Number: uint64(f.number("conn")), Epoch: f.number("epoch")}, Ended: f["event"] == "disconnected"}
	}
	return out, nil
}

// fields are names with values.
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
