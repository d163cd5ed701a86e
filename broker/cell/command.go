package cell

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Record is a command in Redis. Times are in ms; those that decide come from Redis' clock.
type Record struct {
	ID, VIN string
	// State, Cause and Outcome are those of package command; Digest is a digest of the request.
	State, Cause, Outcome, Digest   string
	Gen, Number                     uint64
	Created, Expires                int64
	Sent, Delivered, Accepted, Done int64
	// LateAccepted and Late are when the vehicle reported about the expired command: that it has accepted it, and how it
	// ended.
	LateAccepted, Late int64
	// Result is the payload of the vehicle's last report.
	Result string
	// Told means that the end by cancellation or expiry, or the report after that, is known to be published.
	Told bool
	// Fields holds what no script reads: name, payload and the rest of the request. Its names must not collide with the
	// fields above.
	Fields map[string]string
}

// named maps Redis field names to the fields of r that scripts read.
func (r *Record) named() (texts map[string]*string, unsigned map[string]*uint64, times map[string]*int64) {
	texts = map[string]*string{
		"id": &r.ID, "vin": &r.VIN, "state": &r.State, "cause": &r.Cause, "outcome": &r.Outcome, "digest": &r.Digest, "result": &r.Result,
	}
	unsigned = map[string]*uint64{"gen": &r.Gen, "number": &r.Number}
	times = map[string]*int64{
		"created": &r.Created, "expires": &r.Expires, "sent": &r.Sent, "delivered": &r.Delivered, "accepted": &r.Accepted, "finished": &r.Done,
		"late_accepted": &r.LateAccepted, "late": &r.Late,
	}
	return texts, unsigned, times
}

// fieldTold is the field of Record.Told.
const fieldTold = "told"

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
		case name == fieldTold:
			r.Told = value == flag(true)
		default:
			if r.Fields == nil {
				r.Fields = map[string]string{}
			}
			r.Fields[name] = value
		}
	}
	return r
}

// List returns r as fields and values, sorted by name, without empty ones.
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
	if r.Told {
		all[fieldTold] = flag(true)
	}
	var out []any
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] != "" {
			out = append(out, name, all[name])
		}
	}
	return out
}

// Answer is a script's decision about a command. Record is the command after it, if it exists.
type Answer struct {
	Verdict Verdict
	Record  Record
	// Server is the name of the server, Now its time in ms.
	Server string
	Now    int64
}

// command runs a script on a command. Every answer is confirmed, refusals too, because they depend on what was read.
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

// Reserve reserves an id for one command: OK, Conflict or Closed. The reservation lasts for ttl plus the retention of
// final commands. In a Redis without slots OK is not confirmed: Accept at the same server confirms it (Offered.Reserved).
func (s *Store) Reserve(ctx context.Context, vin, id, digest string, ttl time.Duration) (Answer, error) {
	a, err := s.reserve(ctx, vin, id, digest, ttl.Milliseconds(), false, s.keys.tags != nil)
	if err == nil && a.Verdict != OK && s.keys.tags == nil { // the caller answers with it
		return s.reserve(ctx, vin, id, digest, ttl.Milliseconds(), false, true)
	}
	return a, err
}

func (s *Store) reserve(ctx context.Context, vin, id, digest string, ttl int64, offered, confirm bool) (Answer, error) {
	key := s.keys.reservation(id)
	return s.decide(ctx, call{
		script: "reserve", keys: []string{s.keys.slotted("mark", key), key}, args: []any{vin + " " + digest, ttl + 2*s.keep, flag(offered)},
		confirm: confirm, offers: offered,
	})
}

// Offered is a command to accept.
type Offered struct {
	VIN, ID, Digest string
	TTL             time.Duration
	// Created is when the command was created, in ms of Redis' clock; 0 means now.
	Created int64
	// MaxOpen limits the vehicle's open commands.
	MaxOpen int
	// Reserved is the server that answered Reserve. Another one may not have the reservation.
	Reserved string
	Fields   map[string]string
}

// Accept creates a command: OK, Already, Conflict, Expired, Full, Moved or Closed. Its id must be reserved before, in a Redis
// without slots at the same server; otherwise the verdict is Moved.
func (s *Store) Accept(ctx context.Context, o Offered) (Answer, error) {
	vehicle := s.keys.vehicle(o.VIN)
	if s.keys.tags != nil {
		o.Reserved = "" // by another server; it is confirmed
	}
	args := []any{o.VIN, o.ID, o.Digest, o.TTL.Milliseconds(), o.Created, o.MaxOpen, o.Reserved}
	for _, name := range slices.Sorted(maps.Keys(o.Fields)) {
		args = append(args, name, o.Fields[name])
	}
	return s.command(ctx, "accept", []string{
		s.keys.slotted("mark", vehicle), vehicle, s.keys.command(o.VIN, o.ID), s.keys.opened(o.VIN), s.keys.slotted("due", vehicle),
	}, args...)
}

// Refuse records a command that ended before it was accepted: OK, Already if the id exists, or Closed. If several
// gateways refuse the same request, only one reports it, and none accepts it afterwards.
func (s *Store) Refuse(ctx context.Context, o Offered, state, cause string) (Answer, error) {
	vehicle := s.keys.vehicle(o.VIN)
	args := []any{o.VIN, o.ID, o.Digest, state, cause, s.keep}
	for _, name := range slices.Sorted(maps.Keys(o.Fields)) {
		args = append(args, name, o.Fields[name])
	}
	return s.command(ctx, "refuse", []string{s.keys.slotted("mark", vehicle), s.keys.command(o.VIN, o.ID), s.keys.slotted("ended", vehicle)}, args...)
}

// Send asks whether c may send a command: OK, Already, Doubt, NotOwner, Expired, Missing or Closed.
func (s *Store) Send(ctx context.Context, vin, id string, c Connection) (Answer, error) {
	vehicle := s.keys.vehicle(vin)
	return s.command(ctx, "send", []string{s.keys.slotted("mark", vehicle), s.keys.command(vin, id), vehicle}, c.Node, c.Boot, c.Epoch)
}

// of returns the keys of scripts that may end a command.
func (s *Store) of(vin, id string) []string {
	vehicle := s.keys.vehicle(vin)
	return []string{
		s.keys.slotted("mark", vehicle), s.keys.command(vin, id), s.keys.opened(vin), s.keys.slotted("due", vehicle), s.keys.slotted("ended", vehicle),
	}
}

// Said is a vehicle's report about a command.
type Said struct {
	// Status is delivered, accepted, succeeded, failed or rejected. Cause gives the reason when the status is not the
	// vehicle's own.
	Status, Cause string
	At            time.Time
	Payload       []byte
}

// Report records a vehicle's report: OK, Already, Missing or Closed.
func (s *Store) Report(ctx context.Context, vin, id string, said Said) (Answer, error) {
	return s.command(ctx, "report", s.of(vin, id), vin, id, said.Status, said.At.UnixMilli(), said.Payload, s.keep, said.Cause)
}

// Cancel ends a command that was never sent: OK, Already, Doubt, Missing or Closed.
func (s *Store) Cancel(ctx context.Context, vin, id string) (Answer, error) {
	return s.command(ctx, "cancel", s.of(vin, id), vin, id, s.keep)
}

// Expire ends a command that has expired: OK, Already, Early, Missing or Closed. It also answers OK for the end of a
// command that the gateway which decided it has not published in time: the caller publishes it. After each OK of Cancel
// and Expire the caller has to send the notice NoticePublished.
func (s *Store) Expire(ctx context.Context, vin, id string) (Answer, error) {
	return s.command(ctx, "expire", s.of(vin, id), vin, id, s.keep)
}

// Look reads a command: OK, Missing or Closed.
func (s *Store) Look(ctx context.Context, vin, id string) (Answer, error) {
	return s.command(ctx, "look", []string{s.keys.slotted("mark", s.keys.vehicle(vin)), s.keys.command(vin, id)})
}

// Offer merges a command that the caller remembers. An end by cancellation or expiry that nobody says to be published is due
// again, for Expire. The join that follows at the same server confirms it.
func (s *Store) Offer(ctx context.Context, r Record) (Answer, error) {
	vehicle := s.keys.vehicle(r.VIN)
	keys := []string{s.keys.slotted("mark", vehicle), vehicle, s.keys.command(r.VIN, r.ID), s.keys.opened(r.VIN), s.keys.slotted("due", vehicle), s.keys.slotted("ended", vehicle)}
	return s.decide(ctx, call{script: "offer", keys: keys, args: append([]any{r.VIN, r.ID, s.keep}, r.List()...), offers: true})
}

// offerID reserves the id of a command that the caller remembers, as Offer.
func (s *Store) offerID(ctx context.Context, r *Record) (Answer, error) {
	return s.reserve(ctx, r.VIN, r.ID, r.Digest, max(0, r.Expires-r.Created), true, false)
}
