package sink

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/message/field"
	"cellgate/rules/engine"
)

// parkedEntry is a message in the log of a parked destination: decision and record, so that neither the journal nor the
// sink has to keep anything.
//
//	number    uvarint  counts the entries of the log
//	sink      uvarint length, bytes: the message's sink
//	bits      1 byte   1 dead letter, 2 one of several messages of its record for the sink
//	seq       uvarint
//	set       uvarint  index of the rule set in the dispatch table
//	reason    uvarint length, bytes: why it is a dead letter; "" if the decision has it
//	decision  as engine.Decision.Append writes it
//	record    as message.Record.Append writes it
type parkedEntry struct {
	number   uint64
	sink     string
	dead     bool
	many     bool
	seq      uint64
	set      uint32
	reason   string
	decision engine.Decision
	record   message.Record
}

const (
	parkedDead = 1 << iota
	parkedMany
)

var errParkedEntry = errors.New("damaged entry")

func (e *parkedEntry) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, e.number)
	dst = field.AppendBytes(dst, e.sink)
	var bits byte
	if e.dead {
		bits |= parkedDead
	}
	if e.many {
		bits |= parkedMany
	}
	dst = append(dst, bits)
	dst = binary.AppendUvarint(dst, e.seq)
	dst = binary.AppendUvarint(dst, uint64(e.set))
	dst = field.AppendBytes(dst, e.reason)
	dst = e.decision.Append(dst)
	return e.record.Append(dst, 0)
}

// readParked parses an entry, which aliases b.
func readParked(b []byte, d *message.Decoder) (e parkedEntry, err error) {
	r := field.Reader{B: b}
	e.number = r.Uvarint()
	e.sink = string(r.Bytes())
	bits := r.Byte()
	e.dead, e.many = bits&parkedDead != 0, bits&parkedMany != 0
	e.seq = r.Uvarint()
	set := r.Uvarint()
	e.set = uint32(set) //nolint:gosec // checked below
	e.reason = string(r.Bytes())
	if r.Bad || set > 1<<32-1 {
		return e, fmt.Errorf("%w: at byte %d", errParkedEntry, r.Off)
	}
	var n int
	if e.decision, n, err = engine.DecodeDecision(b[r.Off:]); err != nil {
		return e, fmt.Errorf("%w: %w", errParkedEntry, err)
	}
	if err = d.Decode(b[r.Off+n:], 0, &e.record); err != nil {
		return e, fmt.Errorf("%w: %w", errParkedEntry, err)
	}
	e.record.Seq = e.seq
	return e, nil
}
