package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/shared/trace"
)

// report is a vehicle's report about a command.
type report struct {
	vin, id string
	status  State
	at      int64
	cause   string
	payload []byte
}

// Result handles a record from v1/{vin}/res/{id}/{status}. Call it in journal order; a repeated record changes nothing.
// It may block for room, never for the disk, and does not keep the record. The change is durable after the next Sync.
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
	var a decision
	return s.enter(ctx, vin, &request{must: true, run: func(b *batch) error { return b.reported(p, &a.Answer) }}, func(ctx, _ context.Context) (h *held, err error) {
		a, err = s.reportTogether(ctx, p)
		return a.held, err
	})
}

// Command handles a record of v1/{vin}/cmd/{id}/{name} from the journal: a will, whose sender gets no answer. Call it
// like Result. Refusals are events on vehicle.command-results.
func (s *Service) Command(ctx context.Context, rec *message.Record) error {
	r, found := s.fromMQTT(rec, Caller{By: rec.Client})
	r.At = rec.Time()
	return s.enter(ctx, r.VIN, &request{must: true, run: func(b *batch) error {
		_, _, err := b.take(&r, found, true)
		return err
	}}, func(ctx, _ context.Context) (*held, error) {
		err := s.decideFor(ctx, &r, &found)
		return r.held(), err
	})
}

// refusal returns the state and cause published for a refused request.
func refusal(err error) (State, string) {
	if errors.Is(err, errExpired) {
		return Expired, causeNotSent // as for one that was accepted in time and not sent
	}
	return Rejected, err.Error()
}

// reportable reports whether a refusal gets an event. A conflict does not: its id belongs to another command, whose state
// the event would appear to be.
func reportable(r *Request, cause error) bool {
	return !errors.Is(cause, errConflict) && ValidID(r.ID) && validLevel(r.VIN, maxVINBytes)
}

// refuse adds the event of a refusal. Beyond the bound of events it only counts.
func (b *batch) refuse(r *Request, cause error) error {
	state, why := refusal(cause)
	if state != Expired {
		b.s.o.Log.Warn("command refused", "vin", r.VIN, "id", r.ID, "origin", r.Origin, "by", r.By, "err", cause)
	}
	if !reportable(r, cause) {
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

// Message is a record of vehicle.commands.
type Message struct {
	// Ref identifies the record permanently (partition and offset) and replaces a missing id. It must be a valid id.
	Ref   string
	At    time.Time // the record's timestamp
	Value []byte
	// By is the record's header "by", the sender's unverified name; may be empty.
	By string
}

// maxByBytes bounds Message.By.
const maxByBytes = 128

// by returns the sender's name if it is safe in a log line, else "kafka".
func (m *Message) by() string {
	if m.By == "" || len(m.By) > maxByBytes || !utf8.ValidString(m.By) || strings.IndexFunc(m.By, unicode.IsControl) >= 0 {
		return "kafka"
	}
	return m.By
}

// Consumer reads a partition of vehicle.commands, with a Kafka client that this package does not import.
type Consumer interface {
	// Partition is the permanent name under which its position is stored.
	Partition() string
	// Resume makes Fetch continue at a position that it returned; nil means that there is none yet.
	Resume(ctx context.Context, position []byte) error
	// Fetch waits for records and returns at most a few hundred, in order, with the position after them. It may return
	// only a new position.
	Fetch(ctx context.Context) (messages []Message, position []byte, err error)
	// Accepted reports that the last result of Fetch is on disk, with its position.
	Accepted()
}

// kafkaCommand is the value of a record on vehicle.commands.
type kafkaCommand struct {
	VIN string `json:"vin"`
	body
}

// Consume accepts commands from Kafka until ctx ends or the service is closed. The position is written in the
// transaction of the commands: none is lost or read twice. Errors of the consumer are logged and retried.
func (s *Service) Consume(ctx context.Context, c Consumer) error {
	failed, resumed := 0, false
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
		case errors.Is(err, errClosed):
			return err
		case err != nil:
			s.o.Log.Warn("reading vehicle.commands failed, trying again", "partition", c.Partition(), "err", err)
			if failed++; !again(ctx, failed, longestBackoff) {
				return ctx.Err()
			}
		default:
			failed = 0
		}
	}
}

// resume sets the consumer to the position in the state file.
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

// asked is a request from Kafka. found is the reason for a refusal. elsewhere means that another gateway has read it
// before, and stores and publishes its result. unanswered means that Redis may have recorded the refusal but the answer
// was lost.
type asked struct {
	Request
	found                 error
	elsewhere, unanswered bool
}

// accept decides on messages and writes the position after them, in one transaction.
func (s *Service) accept(ctx context.Context, messages []Message, partition string, position []byte) error {
	all := make([]asked, 0, len(messages))
	for i := range messages {
		if a, ok := s.fromKafka(&messages[i]); ok {
			all = append(all, a)
		}
	}
	if err := s.decideAll(ctx, all); err != nil {
		return err
	}
	write := &request{must: true, run: func(b *batch) error {
		for i := range all {
			if all[i].elsewhere {
				continue
			}
			if _, _, _ = b.take(&all[i].Request, all[i].found, true); b.fail != nil {
				return b.fail
			}
		}
		return b.broken(b.t.positions().Put([]byte(partition), position))
	}}
	for i := range all {
		write.holds = append(write.holds, all[i].held())
	}
	return s.submitRequest(ctx, write)
}

// fromKafka parses a record. A record that is not a command and names its vehicle is refused; one that does not name it is only
// audited and logged, and ok is false.
func (s *Service) fromKafka(m *Message) (a asked, ok bool) {
	from := Caller{By: m.by(), Origin: OriginKafka, May: s.o.KafkaMay}
	var k kafkaCommand
	wrong := decode(bytes.NewReader(m.Value), &k)
	if wrong == nil && k.twoPayloads() {
		wrong = errTwoPayloads
	}
	if wrong == nil {
		r := k.request()
		r.ID, r.VIN, r.At, r.Caller = cmp.Or(r.ID, m.Ref), k.VIN, m.At, from
		return asked{Request: r, found: s.check(&r)}, true
	}
	var named struct{ ID, VIN, Name string }
	if err := json.Unmarshal(m.Value, &named); err != nil || named.VIN == "" {
		s.auditRequest(&Request{ID: m.Ref, Caller: from}, false, errInvalid)
		s.o.Log.Warn("vehicle.commands has a record that is not a command", "ref", m.Ref, "err", wrong)
		return asked{}, false
	}
	r := Request{ID: cmp.Or(named.ID, m.Ref), VIN: named.VIN, Name: named.Name, At: m.At, Caller: from}
	return asked{Request: r, found: fmt.Errorf("%w: %s", errInvalid, reason(wrong))}, true
}
