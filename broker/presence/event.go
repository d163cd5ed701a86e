package presence

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Kind is the kind of an event.
type Kind uint8

// The kinds. Their numbers are stored.
const (
	Connected Kind = iota + 1
	Ready          // commands can be sent
	Disconnected
)

// String returns the kind's published name.
func (k Kind) String() string {
	switch k {
	case Connected:
		return "connected"
	case Ready:
		return "ready"
	case Disconnected:
		return "disconnected"
	}
	return "unknown"
}

// GatewayLost is the reason of a disconnected event for a vehicle that was connected when its gateway was killed.
const GatewayLost = "gateway_lost"

// Mark is an event's position; it rises with each event of a VIN.
type Mark struct {
	Epoch int64  // rises with every start of the gateway
	Seq   uint64 // rises with every event of one epoch
}

func (m Mark) after(o Mark) bool { return m.Epoch > o.Epoch || m.Epoch == o.Epoch && m.Seq > o.Seq }

// Event is one change.
type Event struct {
	VIN string
	Mark
	Kind   Kind
	At     int64 // ms since the Unix epoch
	Reason string
	// As is the position assigned by a cell of several gateways. Node is the gateway of the session if it is another
	// one. Both are published instead of the event's own.
	As   Mark
	Node string
}

// Place returns the published position.
func (e *Event) Place() Mark {
	if e.As != (Mark{}) {
		return e.As
	}
	return e.Mark
}

// Value returns the published event: {vin, cell, node, epoch, seq, event, at, reason}.
func (e *Event) Value(cell, node string) ([]byte, error) {
	as := e.Place()
	return json.Marshal(struct {
		VIN    string `json:"vin"`
		Cell   string `json:"cell"`
		Node   string `json:"node"`
		Epoch  int64  `json:"epoch"`
		Seq    uint64 `json:"seq"`
		Event  string `json:"event"`
		At     string `json:"at"`
		Reason string `json:"reason,omitempty"`
	}{e.VIN, cell, cmp.Or(e.Node, node), as.Epoch, as.Seq, e.Kind.String(), e.Time(), e.Reason})
}

// Time returns the time of the event: RFC 3339 with milliseconds, in UTC.
func (e *Event) Time() string {
	return time.UnixMilli(e.At).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// entry is the stored state of a VIN: its last event, and earlier ones that are not published.
type entry struct {
	published Mark // of this VIN; events up to Outbox.published are published, too
	events    []Event
}

// add appends an event and removes published ones. Of the unpublished ones it keeps the last disconnected and later
// events.
func (e *entry) add(v Event, published Mark) {
	var now Mark
	if len(e.events) > 0 {
		now = e.latest().Mark
	}
	waiting := e.events[:0]
	for _, w := range e.events {
		// A session that began after the one that now ends is still open.
		open := v.Kind == Disconnected && w.Kind != Disconnected && w.Mark == now && w.Place().after(v.Place())
		if open || w.after(published) && w.after(e.published) {
			waiting = append(waiting, w)
		}
	}
	if v.Kind == Disconnected { // the end of an earlier session may come late
		waiting = slices.DeleteFunc(waiting, func(w Event) bool { return !w.Place().after(v.Place()) })
	}
	e.events = append(waiting, v)
}

func (e *entry) waiting(published Mark) []Event {
	for i := range e.events {
		if e.events[i].after(published) && e.events[i].after(e.published) {
			return e.events[i:]
		}
	}
	return nil
}

// last returns the event added last, latest the one with the highest place: the end of an earlier session may come
// late.
func (e *entry) last() *Event { return &e.events[len(e.events)-1] }

func (e *entry) latest() *Event {
	latest := &e.events[0]
	for i := range e.events {
		if e.events[i].Place().after(latest.Place()) {
			latest = &e.events[i]
		}
	}
	return latest
}

// open reports whether a session of this gateway has begun in a cell of several gateways, and has not ended.
func (e *entry) open() bool {
	v := e.latest()
	return v.Kind != Disconnected && v.As.Epoch != 0 && v.Node == ""
}

func appendMark(b []byte, m Mark) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, m.Epoch), m.Seq)
}

// placed is set in the kind of an event with a position in As.
const placed = 0x80

// encode writes the published mark and the events. Each event has a mark, kind (1 byte), time, length of the reason and
// reason. If placed, the mark in As and the node, with its length before it, follow.
func (e *entry) encode() []byte {
	b := appendMark(make([]byte, 0, 48), e.published)
	for i := range e.events {
		v := &e.events[i]
		kind := byte(v.Kind)
		if v.As != (Mark{}) {
			kind |= placed
		}
		b = append(appendMark(b, v.Mark), kind)
		b = binary.AppendVarint(b, v.At)
		b = binary.AppendUvarint(b, uint64(len(v.Reason)))
		b = append(b, v.Reason...)
		if kind&placed != 0 {
			b = binary.AppendUvarint(appendMark(b, v.As), uint64(len(v.Node)))
			b = append(b, v.Node...)
		}
	}
	return b
}

// reader decodes the output of encode. Reading past the end returns zeros and sets short.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) advance(n int) {
	if r.short = r.short || n <= 0 || n > len(r.b); r.short {
		r.b = nil
		return
	}
	r.b = r.b[n:]
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	r.advance(n)
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	r.advance(n)
	return v
}

func (r *reader) mark() Mark { return Mark{r.varint(), r.uvarint()} }

func (r *reader) kind() Kind {
	if len(r.b) == 0 {
		r.short = true
		return 0
	}
	k := Kind(r.b[0])
	r.advance(1)
	return k
}

func (r *reader) text() string {
	n := r.uvarint()
	if n == 0 {
		return ""
	}
	if n > uint64(len(r.b)) {
		r.short = true
		return ""
	}
	s := string(r.b[:n])
	r.advance(int(n)) //nolint:gosec // within b
	return s
}

func decode(vin string, data []byte) (entry, error) {
	r := &reader{b: data}
	e := entry{published: r.mark()}
	unplaced := false // an event with the placed bit but without a position, which encode never writes
	for len(r.b) > 0 && !r.short {
		v := Event{VIN: vin, Mark: r.mark(), Kind: r.kind(), At: r.varint()}
		v.Reason = r.text()
		if v.Kind&placed != 0 {
			v.Kind &^= placed
			v.As, v.Node = r.mark(), r.text()
			unplaced = unplaced || v.As == (Mark{})
		}
		e.events = append(e.events, v)
	}
	if r.short || unplaced || len(e.events) == 0 {
		return entry{}, fmt.Errorf("the presence of %s is not readable: %d bytes", vin, len(data))
	}
	return e, nil
}
