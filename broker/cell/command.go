package cell

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Record is a command in Redis. Times are ms: those that decide are Redis' own.
type Record struct {
	ID, VIN string
	// State, Cause and Outcome are those of package command; Digest is of what was asked for.
	State, Cause, Outcome, Digest   string
	Gen, Number                     uint64
	Created, Expires                int64
	Sent, Delivered, Accepted, Done int64
	// Result is the payload of the vehicle's last report.
	Result string
	// Fields is what no script looks at: name, payload and the rest of the request. None has the name of a field above.
	Fields map[string]string
}

// named lists the fields of r that scripts know, by their names in Redis.
func (r *Record) named() (texts map[string]*string, unsigned map[string]*uint64, times map[string]*int64) {
	texts = map[string]*string{
		"id": &r.ID, "vin": &r.VIN, "state": &r.State, "cause": &r.Cause, "outcome": &r.Outcome, "digest": &r.Digest, "result": &r.Result,
	}
	unsigned = map[string]*uint64{"gen": &r.Gen, "number": &r.Number}
	times = map[string]*int64{
		"created": &r.Created, "expires": &r.Expires, "sent": &r.Sent, "delivered": &r.Delivered, "accepted": &r.Accepted, "finished": &r.Done,
	}
	return texts, unsigned, times
}

func recordOf(list []string) (Record, error) {
	f, err := fieldsOf(list)
	if err != nil {
		return Record{}, err
	}
	return recordOfFields(f), nil
}

func recordOfFields(f fields) Record {
	var r Record
	texts, unsigned, times := r.named()
	for name, value := range f {
		switch {
		case texts[name] != nil:
			*texts[name] = value
		case unsigned[name] != nil:
			*unsigned[name] = uint64(f.number(name))
		case times[name] != nil:
			*times[name] = f.number(name)
		default:
			if r.Fields == nil {
				r.Fields = map[string]string{}
			}
			r.Fields[name] = value
		}
	}
	return r
}

// List is r as fields and values, in the order of their names. What is empty is left out.
func (r *Record) List() []any {
	all := maps.Clone(r.Fields)
	if all == nil {
		all = map[string]string{}
	}
	texts, unsigned, times := r.named()
	for name, v := range texts {
		all[name] = *v
	}
	for name, v := range unsigned {
		if *v != 0 || name == "gen" {
			all[name] = strconv.FormatUint(*v, 10)
		}
	}
	for name, v := range times {
		if *v != 0 {
			all[name] = strconv.FormatInt(*v, 10)
		}
	}
	var out []any
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] != "" {
			out = append(out, name, all[name])
		}
	}
	return out
}

// Answer is what a script decided about a command. Record is the command as it is after that, if there is one.
type Answer struct {
	Verdict Verdict
	Record  Record
	// Server is what the server is called, Now its time in ms.
	Server string
	Now    int64
}

// command runs a script on a command. Everything about commands is confirmed, refusals too: they tell what was read.
func (s *Store) command(ctx context.Context, name string, keys []string, args ...any) (Answer, error) {
	return s.decide(ctx, call{script: name, keys: keys, args: args, confirm: true})
}

func (s *Store) decide(ctx context.Context, c call) (Answer, error) {
	r, err := s.do(ctx, c)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Verdict: r.verdict, Server: r.server, Now: r.now}
	a.Record, err = recordOf(r.rest)
	return a, err
}

// Reserve takes an id for one command: OK, Conflict or Closed. It is kept for ttl and what final commands are kept for.
func (s *Store) Reserve(ctx context.Context, vin, id, digest string, ttl time.Duration) (Answer, error) {
	return s.reserve(ctx, vin, id, digest, ttl.Milliseconds(), false)
}

func (s *Store) reserve(ctx context.Context, vin, id, digest string, ttl int64, offered bool) (Answer, error) {
	key := s.keys.reservation(id)
	return s.decide(ctx, call{
		script: "reserve", keys: []string{s.keys.slotted("mark", key), key}, args: []any{vin + " " + digest, ttl + 2*s.keep, flag(offered)},
		confirm: !offered || s.keys.tags != nil, // else with the join that follows the offers, at the same server
	})
}

// Offered is a command that is to be accepted.
type Offered struct {
	VIN, ID, Digest string
	TTL             time.Duration
	// Created is when it was given, by Redis' time in ms; 0 is now.
	Created int64
	// MaxOpen is how many the vehicle may have open.
	MaxOpen int
	Fields  map[string]string
}

// Accept makes a command: OK, Already, Conflict, Expired, Full or Closed. Its id is reserved before.
func (s *Store) Accept(ctx context.Context, o Offered) (Answer, error) {
	vehicle := s.keys.vehicle(o.VIN)
	args := []any{o.VIN, o.ID, o.Digest, o.TTL.Milliseconds(), o.Created, o.MaxOpen}
	for _, name := range slices.Sorted(maps.Keys(o.Fields)) {
		args = append(args, name, o.Fields[name])
	}
	return s.command(ctx, "accept", []string{
		s.keys.slotted("mark", vehicle), vehicle, s.keys.command(o.VIN, o.ID), s.keys.opened(o.VIN), s.keys.slotted("due", vehicle),
	}, args...)
}

// Refuse notes that a command ended before it was accepted: OK, Already when there is one of that id, or Closed. Several
// gateways that refuse the same request tell of it once, and none of them accepts it any more.
func (s *Store) Refuse(ctx context.Context, o Offered, state, cause string) (Answer, error) {
	vehicle := s.keys.vehicle(o.VIN)
	args := []any{o.VIN, o.ID, o.Digest, state, cause, s.keep}
	for _, name := range slices.Sorted(maps.Keys(o.Fields)) {
		args = append(args, name, o.Fields[name])
	}
	return s.command(ctx, "refuse", []string{s.keys.slotted("mark", vehicle), s.keys.command(o.VIN, o.ID), s.keys.slotted("ended", vehicle)}, args...)
}

// Send asks whether c may put a command on the wire: OK, Already, Doubt, NotOwner, Expired, Missing or Closed.
func (s *Store) Send(ctx context.Context, vin, id string, c Connection) (Answer, error) {
	vehicle := s.keys.vehicle(vin)
	return s.command(ctx, "send", []string{s.keys.slotted("mark", vehicle), s.keys.command(vin, id), vehicle}, c.Node, c.Boot, c.Epoch)
}

// of are the keys of a script that may end a command.
func (s *Store) of(vin, id string) []string {
	vehicle := s.keys.vehicle(vin)
	return []string{
		s.keys.slotted("mark", vehicle), s.keys.command(vin, id), s.keys.opened(vin), s.keys.slotted("due", vehicle), s.keys.slotted("ended", vehicle),
	}
}

// Said is what the vehicle says of a command.
type Said struct {
	// Status is delivered, accepted, succeeded, failed or rejected; Cause says why, where it is not the vehicle that says so.
	Status, Cause string
	At            time.Time
	Payload       []byte
}

// Report notes what the vehicle says: OK, Already, Missing or Closed.
func (s *Store) Report(ctx context.Context, vin, id string, said Said) (Answer, error) {
	return s.command(ctx, "report", s.of(vin, id), vin, id, said.Status, said.At.UnixMilli(), said.Payload, s.keep, said.Cause)
}

// Cancel ends what was never sent: OK, Already, Doubt, Missing or Closed.
func (s *Store) Cancel(ctx context.Context, vin, id string) (Answer, error) {
	return s.command(ctx, "cancel", s.of(vin, id), vin, id, s.keep)
}

// Expire ends what has expired: OK, Already, Early, Missing or Closed.
func (s *Store) Expire(ctx context.Context, vin, id string) (Answer, error) {
	return s.command(ctx, "expire", s.of(vin, id), vin, id, s.keep)
}

// Look reads a command: OK, Missing or Closed.
func (s *Store) Look(ctx context.Context, vin, id string) (Answer, error) {
	return s.command(ctx, "look", []string{s.keys.slotted("mark", s.keys.vehicle(vin)), s.keys.command(vin, id)})
}

// Offer merges a command that the caller remembers, and takes its id.
func (s *Store) Offer(ctx context.Context, r Record) (Answer, error) {
	if _, err := s.reserve(ctx, r.VIN, r.ID, r.Digest, max(0, r.Expires-r.Created), true); err != nil {
		return Answer{}, err
	}
	vehicle := s.keys.vehicle(r.VIN)
	keys := []string{s.keys.slotted("mark", vehicle), vehicle, s.keys.command(r.VIN, r.ID), s.keys.opened(r.VIN), s.keys.slotted("due", vehicle), s.keys.slotted("ended", vehicle)}
	// The join that follows is confirmed, at the same server, and these writes with it.
	return s.decide(ctx, call{script: "offer", keys: keys, args: append([]any{r.VIN, r.ID, s.keep}, r.List()...)})
}
