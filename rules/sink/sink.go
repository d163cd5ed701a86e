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

// Sink delivers messages to one store. It is the contract between the dispatcher and whatever stands
// behind it:
//
//   - Deliver hands one message over. It must return at once: it does no I/O and waits for nothing. The
//     dispatcher bounds what is under way (Limits), so a sink may queue all that it is given.
//   - What the Message points to belongs to the caller and changes after Deliver returns: the sink
//     copies what it needs.
//   - Deliver is called by one goroutine at a time, in journal order. The sink keeps the order of
//     messages with the same key (Kafka) or VIN (Redis; in a cluster VIN and slot), over its own retries too.
//   - Every Ticket is settled exactly once, from any goroutine, with Delivered, Refused or Dropped; or
//     never, when the sink is closed first. Delivered means that the store has it durably, in the
//     store's own terms.
//   - Transient errors are the sink's to retry, for ever, with jittered back-off. Between two tries it
//     asks Ticket.Abandoned and, when true, settles with Dropped(Retention). Refused is for messages
//     that the store will never take, whoever sends them again.
//   - Close sends what it can until ctx ends and then lets go of the rest, unsettled. Nothing is
//     delivered after Close has begun.
type Sink interface {
	// Name is the sink's name in ledger, metrics and on disk: a short word of a-z.
	Name() string
	// Kind says which targets are this sink's.
	Kind() op.SinkKind
	Deliver(m *Message, t Ticket)
	Health() remote.Health
	Close(ctx context.Context) error
	// Announce tells the topics of a rule set before the first message.
	Announce(topics []string)
	// Parker is nil for a sink that parks nothing.
	Parker() Parker
}

// Parker has a sink give back messages for a destination of its own (a topic, a partition, slots of a cluster) that takes none while others
// do: with Ticket.Park, in the order in which it got them. They then wait on disk, in a log of the destination's, and hold no
// place that others need.
type Parker interface {
	// Park has the sink give all messages for a destination to Ticket.Park from now on, until Open. Those that Ticket.Park
	// does not take have been parked and are sent now: the sink sends them, in order, as soon as it can.
	Park(dest string)
	// Open lets messages for a destination through again if the sink can send them and empty returns true. While empty is
	// called the sink parks none for the destination, and what it gets afterwards is after all it has got before.
	Open(dest string, empty func() bool)
}

// Message is one message for a sink, valid only during Deliver.
type Message struct {
	// Record is what the vehicle or service sent; for what a rule sends at the end of a time a KindTick, with the VIN in Client and
	// the end in ReceivedAt.
	Record *message.Record
	// Out is what the rule made of it.
	Out *op.Rendered
	// idPrefix is the part of the message id in front of the sequence.
	idPrefix string
}

// AppendMsgID appends the message's id, the same on every try and after every restart, and the same for a
// message that the vehicle sent again as for the first. What a rule sends at the end of a time has VIN and end.
func (m *Message) AppendMsgID(dst []byte) []byte {
	if m.Record.Kind == message.KindTick {
		return strconv.AppendInt(append(append(dst, m.Record.VIN()...), '-'), m.Record.ReceivedAt, 10)
	}
	return strconv.AppendUint(append(dst, m.idPrefix...), m.Record.Origin(), 10)
}

// Size is about what the message takes in a sink's memory.
func (m *Message) Size() int {
	n := 256 + len(m.Out.Key) + len(m.Out.Value) + len(m.Out.Redis.Value) + len(m.Out.Redis.Key)
	for _, f := range m.Out.Redis.Fields {
		n += 48 + len(f.Name) + len(f.Value)
	}
	return n
}

// Ticket is the right to settle one message. It is a value: keep it with the message.
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
	stays  bool          // the sink keeps it, whatever becomes of its destination
	more   *decisionRest // nil: the decision is rule and target
}

// decisionRest is what else a decision is.
type decisionRest struct {
	err       string
	values    []byte
	undecoded []uint16
	item      uint16
	window    *engine.Window
}

// moreOf is what a decision is beside rule and target, nil for nothing.
func moreOf(d *engine.Decision) *decisionRest {
	if d.Err == "" && d.Values == nil && d.Item == 0 && d.Window == nil {
		return nil
	}
	return &decisionRest{err: d.Err, values: slices.Clone(d.Values), undecoded: d.Undecoded, item: d.Item, window: d.Window}
}

// decision is what the message is made of.
func (t Ticket) decision() engine.Decision {
	d := engine.Decision{Rule: t.rule, Target: t.target}
	if t.more != nil {
		d.Err, d.Values, d.Undecoded = t.more.err, t.more.values, t.more.undecoded
		d.Item, d.Window = t.more.item, t.more.window
	}
	return d
}

// settler takes outcomes: a pipeline, a burial of one of its messages, or the flight of a parked one. It must not block.
type settler interface {
	settle(t Ticket, o outcome, reason string)
	refused(t Ticket, err error)
	abandoned(seq uint64) bool
	// park takes the message off the sink until its destination takes it; false: it has been parked already.
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

// Dropped settles the message: a policy says that it is given up. reason is a metric label of few
// values.
func (t Ticket) Dropped(reason string) { t.to.settle(t, dropped, reason) }

// Abandoned reports that the message has been overtaken by the sink's age_out policy.
func (t Ticket) Abandoned() bool { return t.to.abandoned(t.seq) }

// Park hands the message back because its destination takes none, and why; it counts as pending and is delivered again when
// there is a chance. When it returns true, the ticket is no longer the sink's to settle. It returns false for a message that
// was parked: that one waits in the sink. It does not block.
func (t Ticket) Park(dest string, why error) bool { return !t.stays && t.to.park(t, dest, why) }

// ErrMissing is wrapped by the reason of a sink that parks a destination because there is none of that name. Others go on,
// so it is never taken for an outage of the sink.
var ErrMissing = errors.New("the destination does not exist")

// Patient reports that the message has nowhere else to go: it is a dead letter, and waits for as long as it takes.
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
	// Retention: the sink's when_full is age_out and its backlog outgrew the limit.
	Retention = "retention"
	// Corruption: the disk has damaged the record before it was evaluated. What it was, and whether a rule
	// would have matched it, nobody knows: it counts in every sink's ledger.
	Corruption = "corruption"
	// ParkedFull: its destination takes no records, what may be parked for it is used up, and so it is with the error topic.
	ParkedFull = "parked_full"
	// OnErrorNone: its sink has refused it, and its rule says on_error: none.
	OnErrorNone = "on_error_none"
	// JournalLost: the record is no longer in the journal, though a sink still needed it.
	JournalLost = "journal_lost"
	// DecisionsLost: what the rules had decided on the record was in a decision log that could not be read, and the
	// operator has given it up by `cellgate repair`. The record itself may still be in the journal.
	DecisionsLost = "decisions_lost"
)

// WhenFull says what happens when a sink stays away so long that its backlog fills the journal.
type WhenFull string

// The policies.
const (
	// Hold keeps everything: the journal's own limit, and with it the vehicles, will feel it.
	Hold WhenFull = "hold"
	// AgeOut passes over the oldest, counted as dropped(retention).
	AgeOut WhenFull = "age_out"
)
