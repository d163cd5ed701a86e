package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cellgate/broker/cell"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/shared/trace"
)

// report is what a vehicle said about a command.
type report struct {
	vin, id string
	status  State
	at      int64
	cause   string
	payload []byte
}

// Result takes a record from v1/{vin}/res/{id}/{status}. Call it in journal order; it may block for room,
// never for the disk, and a record that is given twice changes nothing. The record is not kept. It is
// durable after the next Sync.
func (s *Service) Result(ctx context.Context, rec *message.Record) error {
	vin, branch, rest := message.SplitTopic(rec.Topic)
	id, status, _ := strings.Cut(rest, "/")
	p := &report{vin: vin, id: id, status: State(status), at: rec.ReceivedAt}
	switch {
	case branch != "res" || !ValidID(id) || !p.status.fromVehicle():
		s.metrics.ignored.WithLabelValues("topic").Inc()
		return nil
	case rec.Client != vin:
		s.metrics.ignored.WithLabelValues("foreign").Inc()
		return nil
	case len(rec.Payload) > s.o.MaxPayload:
		p.cause = "result_too_large" // the status still counts
	default:
		p.payload = bytes.Clone(rec.Payload)
	}
	if s.o.Cell == nil {
		return s.inbox.put(ctx, &request{must: true, run: func(b *batch) error { return b.report(p) }})
	}
	var a cell.Answer
	return s.enter(ctx, vin, &request{must: true, run: func(b *batch) error { return b.reported(p, &a) }}, func(ctx, _ context.Context) (err error) {
		a, err = s.reportTogether(ctx, p)
		return err
	})
}

// Command takes a record of v1/{vin}/cmd/{id}/{name} from the journal: a will, which nobody waits for an answer of. Call
// it like Result. What is refused is told on vehicle.command-results.
func (s *Service) Command(ctx context.Context, rec *message.Record) error {
	r, found := s.fromMQTT(rec, Caller{By: rec.Client})
	r.At = rec.Time()
	return s.enter(ctx, r.VIN, &request{must: true, run: func(b *batch) error {
		_, _, err := b.take(&r, found, true)
		return err
	}}, func(ctx, _ context.Context) error { return s.decideFor(ctx, &r, &found) })
}

// refusal is what is told of a request that is refused: the state, and the cause.
func refusal(err error) (State, string) {
	if errors.Is(err, ErrExpired) {
		return Expired, causeNotSent // as of one that was accepted in time and could not be sent
	}
	return Rejected, err.Error()
}

// tellable reports whether a refusal can be told. A conflict is not: its id is another command's, whose state the event would
// seem to be.
func tellable(r *Request, cause error) bool {
	return !errors.Is(cause, ErrConflict) && ValidID(r.ID) && validLevel(r.VIN, maxVINBytes)
}

// refuse tells the sender by an event alone. What is beyond the bound of events is counted instead.
func (b *batch) refuse(r *Request, cause error) error {
	state, why := refusal(cause)
	if state != Expired {
		b.s.o.Log.Warn("command refused", "vin", r.VIN, "id", r.ID, "origin", r.Origin, "by", r.By, "err", cause)
	}
	if !tellable(r, cause) {
		return nil
	}
	if known, err := b.t.byID(r.ID); b.broken(err) != nil || known != nil && !r.ours {
		return err
	}
	if b.outboxFull() {
		b.after = append(b.after, func() { b.s.metrics.dropped.WithLabelValues("full").Inc() })
		return nil
	}
	name := r.Name
	if !validLevel(name, maxNameBytes) {
		name = ""
	}
	shown := Command{ID: r.ID, VIN: r.VIN, Name: name, State: state, Cause: why, CreatedAt: Stamp(b.now), FinishedAt: Stamp(b.now)}
	return b.emit(Change{Command: shown, Parent: trace.Parent(r.props.User)}, eventValue{
		ID: r.ID, VIN: r.VIN, Name: name, State: state, At: Stamp(b.now).String(), Cause: why,
		By: r.By, Origin: r.Origin,
	})
}

// Message is one record of vehicle.commands.
type Message struct {
	// Ref names the record for ever, such as partition and offset; it stands in for a missing id.
	// It must be a valid id.
	Ref   string
	At    time.Time // the record's timestamp
	Value []byte
	// By is the record's header "by", who sent it by its own account: Kafka does not tell. Empty: there is none.
	By string
}

// maxByBytes bounds who a record of vehicle.commands names as its sender.
const maxByBytes = 128

// by is who sent the record: a name that can stand in a log line, else "kafka".
func (m *Message) by() string {
	if m.By == "" || len(m.By) > maxByBytes || !utf8.ValidString(m.By) || strings.IndexFunc(m.By, unicode.IsControl) >= 0 {
		return "kafka"
	}
	return m.By
}

// Consumer reads a partition of vehicle.commands, by a client of Kafka that this package does not import.
type Consumer interface {
	// Partition names it for ever: its position is kept under the name.
	Partition() string
	// Resume has Fetch go on at a position that it gave; nil: there is none yet.
	Resume(ctx context.Context, position []byte) error
	// Fetch waits for records and returns them in their order, a few hundred at most, and the position after them. There
	// may be no record when only the position has changed.
	Fetch(ctx context.Context) (messages []Message, position []byte, err error)
	// Accepted tells that what Fetch returned last is on disk, and its position.
	Accepted()
}

// kafkaCommand is a value on vehicle.commands.
type kafkaCommand struct {
	VIN string `json:"vin"`
	body
}

// Consume accepts commands from Kafka until ctx ends or the service is closed. The position is written in the
// transaction of the commands before it: none is lost, and none comes again. Errors of the consumer are logged and tried
// again.
func (s *Service) Consume(ctx context.Context, c Consumer) error {
	wait, resumed := newBackoff(), false
	for {
		var err error
		if !resumed {
			err = s.resume(ctx, c)
		}
		if err == nil {
			err = s.consumeOnce(ctx, c)
		}
		switch resumed = err == nil; {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrClosed):
			return err
		case err != nil:
			s.o.Log.Warn("reading vehicle.commands failed, trying again", "partition", c.Partition(), "err", err)
			if !wait.sleep(ctx) {
				return ctx.Err()
			}
		default:
			wait.reset()
		}
	}
}

// resume has the consumer go on where the state file says.
func (s *Service) resume(ctx context.Context, c Consumer) error {
	var position []byte
	err := s.o.DB.View(func(tx *statefile.Tx) error {
		position = bytes.Clone(tx.Bucket(bucketPositions).Get([]byte(c.Partition())))
		return nil
	})
	if err != nil {
		return err
	}
	return c.Resume(ctx, position)
}

func (s *Service) consumeOnce(ctx context.Context, c Consumer) error {
	messages, position, err := c.Fetch(ctx)
	if err == nil {
		err = s.accept(ctx, messages, c.Partition(), position)
	}
	if err == nil {
		c.Accepted()
	}
	return err
}

// asked is a request from Kafka. found is why it is refused; elsewhere: another gateway has read it before, and keeps and tells
// what came of it. unheard: Redis may have noted that it is refused, and the answer was lost.
type asked struct {
	Request
	found              error
	elsewhere, unheard bool
}

// accept decides on the messages and writes the position after them, in one transaction.
func (s *Service) accept(ctx context.Context, messages []Message, partition string, position []byte) error {
	all := make([]asked, 0, len(messages))
	for i := range messages {
		if r, ok := s.fromKafka(&messages[i]); ok {
			found := s.check(&r)
			all = append(all, asked{Request: r, found: found})
		}
	}
	if err := s.decideAll(ctx, all); err != nil {
		return err
	}
	return s.submit(ctx, true, func(b *batch) error {
		for i := range all {
			if all[i].elsewhere {
				continue
			}
			if _, _, _ = b.take(&all[i].Request, all[i].found, true); b.fail != nil {
				return b.fail
			}
		}
		return b.broken(b.t.positions.Put([]byte(partition), position))
	})
}

func (s *Service) fromKafka(m *Message) (Request, bool) {
	var k kafkaCommand
	from := Caller{By: m.by(), Origin: OriginKafka, May: s.o.KafkaMay}
	if err := json.Unmarshal(m.Value, &k); err != nil {
		s.told(&Request{ID: m.Ref, Caller: from}, false, ErrInvalid)
		s.o.Log.Warn("vehicle.commands has a record that is not a command", "ref", m.Ref, "err", err)
		return Request{}, false
	}
	r := k.request()
	r.ID, r.VIN, r.At, r.Caller = cmp.Or(r.ID, m.Ref), k.VIN, m.At, from
	return r, true
}
