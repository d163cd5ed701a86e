package engine

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cellgate/broker/shared/message/field"
)

// TargetError is the Target of a decision that is an evaluation error.
const TargetError = 0xFFFF

// TargetUndecoded is the Target of the decision about a record whose payload cannot be decoded: one for all the rules that
// need a field of it.
const TargetUndecoded = 0xFFFE

// Decision says that one rule sends one record to one of its targets, or that the rule could not be
// evaluated on it. The decisions of one record stand in the order of the set's rules, those of one rule
// in the order of its targets, so a rule's match is counted when Rule changes. One with TargetUndecoded comes last.
type Decision struct {
	// Rule is the rule's index in Set.Rules.
	Rule uint16
	// Target is the index in the rule's `to`, TargetError or TargetUndecoded.
	Target uint16
	// Undecoded are all the rules of TargetUndecoded, from Rule on.
	Undecoded []uint16
	// Shadow marks the match of a rule whose mode is shadow: one decision, Target 0; and an error, with TargetError and
	// Err, of such a rule or of one that sends no errors. It is counted and never delivered; Render refuses it.
	Shadow bool
	// Err is not empty when the rule could not be evaluated: the reason, without payload contents. The
	// record then goes to the rule's on_error topic, with TargetUndecoded to the set's.
	Err string
	// Values are the operators' values that a template or expression of the target refers to, as a JSON
	// object; nil when it refers to none.
	Values []byte
}

// ErrBadDecision is wrapped by every error of DecodeDecision.
var ErrBadDecision = errors.New("damaged decision")

const (
	decisionShadow = 1 << iota
	decisionErr
	decisionValues
	decisionUndecoded
)

// Append encodes d behind dst:
//
//	bits    1 byte   1 shadow, 2 an error follows, 4 values follow, 8 rules follow
//	rule    uvarint
//	target  uvarint
//	err     uvarint length, bytes; only with bit 2
//	values  uvarint length, bytes; only with bit 4
//	rules   uvarint count, uvarints; only with bit 8
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
	return dst
}

// DecodeDecision reads one decision from the front of b and returns how many bytes it took. Values
// alias b. The error wraps ErrBadDecision.
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
	if r.Bad || rule > 0xFFFF || target > 0xFFFF || bits >= decisionUndecoded<<1 {
		return Decision{}, 0, fmt.Errorf("%w at byte %d of %d", ErrBadDecision, r.Off, len(b))
	}
	return d, r.Off, nil
}
