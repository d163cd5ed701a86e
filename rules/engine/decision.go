package engine

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/message/field"
)

// TargetError is the Target of a decision that reports an evaluation error.
const TargetError = 0xFFFF

// TargetUndecoded is the Target of the decision about a record whose payload cannot be decoded. It represents all rules
// that need a field of the payload.
const TargetUndecoded = 0xFFFE

// Decision says that one rule sends one record to one of its targets, or that the rule could not be evaluated on it.
// The decisions of one record are in the order of the set's rules, those of one rule in the order of its targets;
// OfMatch tells where a match begins. A decision with TargetUndecoded comes last. Decisions of ticks are in the order
// of their due times.
type Decision struct {
	// Rule is the rule's index in Set.Rules.
	Rule uint16
	// Target is the index in the rule's `to`, TargetError or TargetUndecoded.
	Target uint16
	// Item is the 1-based position of the list element; 0 for a rule without each.
	Item uint16
	// Undecoded lists all rules of TargetUndecoded; the first is Rule.
	Undecoded []uint16
	// Shadow marks a match of a rule in mode shadow (one decision, Target 0), or an error (TargetError and Err) of such
	// a rule or of one with on_error: none. Shadow decisions are counted, never delivered; Render refuses them.
	Shadow bool
	// Err is the reason why the rule could not be evaluated, without payload contents; "" if it could. The record then
	// goes to the rule's on_error topic, with TargetUndecoded to the set's.
	Err string
	// Values are the operators' values that the target's templates and expressions refer to, as a JSON object; nil if
	// there are none.
	Values []byte
	// Window is set when the rule sends at the end of a period. There is no message then, and rendering uses only the
	// decision.
	Window *Window
}

// Window identifies a decision that has no message.
type Window struct {
	VIN string
	End int64 // ms since the Unix epoch; `now` in the rule
}

// Record returns the record to render the decision from: rec, or for the end of a period one without topic and payload.
func (d *Decision) Record(rec *message.Record) *message.Record {
	if d.Window == nil {
		return rec
	}
	return &message.Record{Seq: rec.Seq, Kind: message.KindTick, ReceivedAt: d.Window.End, Client: d.Window.VIN}
}

// OfMatch reports whether the decision is for a further target of the match that before belongs to.
func (d *Decision) OfMatch(before *Decision) bool {
	return d.Rule == before.Rule && d.Target > before.Target && d.Err == ""
}

// errBadDecision is wrapped by every error of DecodeDecision.
var errBadDecision = errors.New("damaged decision")

const (
	decisionShadow = 1 << iota
	decisionErr
	decisionValues
	decisionUndecoded
	decisionItem
	decisionWindow
)

// Append appends the encoding of d to dst:
//
//	bits    1 byte   1 shadow, 2 an error follows, 4 values follow, 8 rules follow, 16 an item follows, 32 a window follows
//	rule    uvarint
//	target  uvarint
//	err     uvarint length, bytes; only with bit 2
//	values  uvarint length, bytes; only with bit 4
//	rules   uvarint count, uvarints; only with bit 8
//	item    uvarint; only with bit 16
//	window  varint end, uvarint length, VIN; only with bit 32
func (d *Decision) Append(dst []byte) []byte {
	var bits byte
	if d.Shadow {
		bits |= decisionShadow
	}
	if d.Err != "" {
		bits |= decisionErr
	}
	if len(d.Values) > 0 {
		bits |= decisionValues
	}
	if len(d.Undecoded) > 0 {
		bits |= decisionUndecoded
	}
	if d.Item != 0 {
		bits |= decisionItem
	}
	if d.Window != nil {
		bits |= decisionWindow
	}
	dst = append(dst, bits)
	dst = binary.AppendUvarint(dst, uint64(d.Rule))
	dst = binary.AppendUvarint(dst, uint64(d.Target))
	if d.Err != "" {
		dst = field.AppendBytes(dst, d.Err)
	}
	if len(d.Values) > 0 {
		dst = field.AppendBytes(dst, d.Values)
	}
	if len(d.Undecoded) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(d.Undecoded)))
		for _, r := range d.Undecoded {
			dst = binary.AppendUvarint(dst, uint64(r))
		}
	}
	if d.Item != 0 {
		dst = binary.AppendUvarint(dst, uint64(d.Item))
	}
	if d.Window != nil {
		dst = field.AppendBytes(binary.AppendVarint(dst, d.Window.End), d.Window.VIN)
	}
	return dst
}

// DecodeDecision reads one decision from the front of b and returns how many bytes it took. Values
// alias b. The error wraps errBadDecision.
func DecodeDecision(b []byte) (Decision, int, error) {
	r := field.Reader{B: b}
	bits, rule, target := r.Byte(), r.Uvarint(), r.Uvarint()
	d := Decision{Rule: uint16(rule), Target: uint16(target), Shadow: bits&decisionShadow != 0} //nolint:gosec // checked below
	if bits&decisionErr != 0 {
		d.Err = string(r.Bytes())
	}
	if bits&decisionValues != 0 {
		d.Values = r.Bytes()
	}
	if bits&decisionUndecoded != 0 {
		for n := r.Count(1); n > 0; n-- {
			next := r.Uvarint()
			r.Bad = r.Bad || next > 0xFFFF
			d.Undecoded = append(d.Undecoded, uint16(next)) //nolint:gosec // checked
		}
	}
	item := uint64(0)
	if bits&decisionItem != 0 {
		item = r.Uvarint()
		d.Item = uint16(item) //nolint:gosec // checked below
	}
	if bits&decisionWindow != 0 {
		end := r.Varint()
		d.Window = &Window{VIN: string(r.Bytes()), End: end}
	}
	if r.Bad || rule > 0xFFFF || target > 0xFFFF || item > 0xFFFF || bits >= decisionWindow<<1 {
		return Decision{}, 0, fmt.Errorf("%w at byte %d of %d", errBadDecision, r.Off, len(b))
	}
	return d, r.Off, nil
}
