package sink

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/rules/engine"
	"cellgate/rules/op"
)

// Sink delivers messages to one store. It is the contract between the dispatcher and a store's client:
//
//   - Deliver takes one message. It must return at once: it does no I/O and does not wait. The dispatcher bounds what is in
//     flight (Limits), so a sink may queue everything.
//   - The data of a Message belongs to the caller and changes after Deliver returns: the sink copies what it needs.
//   - Deliver is called by one goroutine at a time, in journal order. The sink keeps the order of messages with the same key
//     (Kafka) or VIN (Redis; in a cluster VIN and slot), also over its own retries.
//   - Every Ticket is settled exactly once, from any goroutine, with Delivered, Refused or Dropped; or never, if the sink is
//     closed first. Delivered means that the store has it durably, in the store's own terms.
//   - The sink retries transient errors without limit, with jittered back-off. Between two tries it calls Ticket.Abandoned
//     and, if true, settles with Dropped(Retention). Refused is for messages that the store will never take.
//   - Close sends what it can until ctx ends and then releases the rest, unsettled. Nothing is delivered after Close has
//     begun.
type Sink interface {
	// Name is the sink's name in ledger, metrics and on disk: a short word of a-z.
	Name() string
	// Kind returns the kind of targets that the sink serves.
	Kind() op.SinkKind
	Deliver(m *Message, t Ticket)
	Health() remote.Health
	Close(ctx context.Context) error
	// Announce passes the topics of a rule set before the first message.
	Announce(topics []string)
	// Parker returns nil if the sink does not park.
	Parker() Parker
}

// Parker makes a sink return messages for a destination (a topic, a partition, slots of a cluster) that takes none
// while others do: with Ticket.Park, in the order of Deliver. They then wait on disk, in the destination's log, and
// occupy no place that others need.
type Parker interface {
	// Park makes the sink pass all messages for a destination to Ticket.Park, until Open. If Ticket.Park returns false,
	// the message comes from the log: the sink sends such messages, in order, as soon as it can.
	Park(dest string)
	// Open lets messages for a destination through again if the sink can send them and empty returns true. While empty
	// runs the sink parks none for the destination; later messages follow all earlier ones.
	Open(dest string, empty func() bool)
}

// Message is one message for a sink, valid only during Deliver.
type Message struct {
	// Record is the message of the vehicle or service. For a rule's message at the end of a period it is a KindTick,
	// with the VIN in Client and the end in ReceivedAt.
	Record *message.Record
	// Out is the rule's rendered result.
	Out *op.Rendered
	// idPrefix is the part of the message id before the sequence.
	idPrefix string
}

// AppendMsgID appends the message's id. It is the same on every try, after every restart, and for a message that the
// vehicle sent again. A rule's message at the end of a period has an id of VIN and end.
func (m *Message) AppendMsgID(dst []byte) []byte {
	if m.Record.Kind == message.KindTick {
		return strconv.AppendInt(append(append(dst, m.Record.VIN()...), '-'), m.Record.ReceivedAt, 10)
	}
	return strconv.AppendUint(append(dst, m.idPrefix...), m.Record.Origin(), 10)
}

// Size estimates the message's memory in a sink.
func (m *Message) Size() int {
	n := 256 + len(m.Out.Key) + len(m.Out.Value) + len(m.Out.Redis.Value) + len(m.Out.Redis.Key)
	for _, f := range m.Out.Redis.Fields {
		n += 48 + len(f.Name) + len(f.Value)
	}
	return n
}

// Ticket settles one message. It is a value: keep it with the message.
type Ticket struct {
	to     settler
	slot   uint64 // of the record in its tracker
	size   int32
	set    uint32 // the rule set's index
	rule   uint16
	target uint16
	dead   bool // the message is a dead letter: delivered means dead-lettered
	many   bool // the record has several messages for the sink
	seq    uint64
	stays  bool          // the sink keeps it, whatever the state of its destination
	more   *decisionRest // nil if the decision is only rule and target
}

// decisionRest is the rest of a decision.
type decisionRest struct {
	err       string
	values    []byte
	undecoded []uint16
	item      uint16
	window    *engine.Window
}

// moreOf returns a decision's parts other than rule and target, nil if there are none.
func moreOf(d *engine.Decision) *decisionRest {
	if d.Err == "" && d.Values == nil && d.Item == 0 && d.Window == nil {
		return nil
	}
	return &decisionRest{err: d.Err, values: slices.Clone(d.Values), undecoded: d.Undecoded, item: d.Item, window: d.Window}
}

// decision returns the message's decision.
func (t Ticket) decision() engine.Decision {
	d := engine.Decision{Rule: t.rule, Target: t.target}
	if t.more != nil {
		d.Err, d.Values, d.Undecoded = t.more.err, t.more.values, t.more.undecoded
		d.Item, d.Window = t.more.item, t.more.window
	}
	return d
}

// settler receives outcomes: a pipeline, the dead letter of one of its messages, or the flight of a parked one. It must not
// block.
type settler interface {
	settle(t Ticket, o outcome, reason string)
	refused(t Ticket, err error)
	abandoned(seq uint64) bool
	// park takes the message from the sink until its destination takes messages; false if it was parked already.
	park(t Ticket, dest string, why error) bool
}

// Delivered settles the message: the store has it.
func (t Ticket) Delivered() {
	if t.dead {
		t.to.settle(t, deadLettered, "")
		return
	}
	t.to.settle(t, delivered, "")
}

// Refused settles the message: the store will never take it. It goes to the rule's error topic.
func (t Ticket) Refused(err error) { t.to.refused(t, err) }

// Dropped settles the message as dropped by a policy. reason is a metric label with few values.
func (t Ticket) Dropped(reason string) { t.to.settle(t, dropped, reason) }

// Abandoned reports whether the sink's age_out policy has skipped the message.
func (t Ticket) Abandoned() bool { return t.to.abandoned(t.seq) }

// Park returns the message because its destination takes none, for the reason why. It counts as pending and is
// delivered again later. If Park returns true, the sink must no longer settle the ticket. It returns false for a
// message that was parked before: that one waits in the sink. It does not block.
func (t Ticket) Park(dest string, why error) bool { return !t.stays && t.to.park(t, dest, why) }

// ErrMissing is wrapped by the reason for parking a destination that does not exist. It is never taken for an outage of
// the sink.
var ErrMissing = errors.New("the destination does not exist")

// Patient reports whether the message is a dead letter, which waits for its destination without a limit.
func (t Ticket) Patient() bool { return t.dead }

// outcome is how a message or record ended. A record's outcome is the highest of its messages'.
type outcome uint8

const (
	delivered outcome = iota
	deadLettered
	dropped
)

// Reasons of dropped messages.
const (
	// Retention means that the sink's when_full is age_out and its backlog outgrew the limit.
	Retention = "retention"
	// Corruption means that the disk damaged the record before it was evaluated. Its content and matching rules are
	// unknown, so it counts in every sink's ledger.
	Corruption = "corruption"
	// ParkedFull means that the destination takes no records, and neither its log nor that of the error topic has room.
	ParkedFull = "parked_full"
	// OnErrorNone means that the sink refused the message and its rule says on_error: none.
	OnErrorNone = "on_error_none"
	// JournalLost means that the journal no longer has the record although a sink needed it.
	JournalLost = "journal_lost"
	// DecisionsLost means that the record's decisions were in an unreadable part of a decision log, which the operator
	// gave up with `cellgate repair`. The record itself may still be in the journal.
	DecisionsLost = "decisions_lost"
)

// WhenFull says what happens when a sink is away so long that its backlog fills the journal.
type WhenFull string

const (
	// Hold keeps everything, up to the journal's own limit, which then affects the vehicles.
	Hold WhenFull = "hold"
	// AgeOut skips the oldest records and counts them as dropped(retention).
	AgeOut WhenFull = "age_out"
)
