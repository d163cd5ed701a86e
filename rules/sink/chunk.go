package sink

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cellgate/rules/engine"
)

// A chunk has the decisions of one rule set for one sink on a stretch of the journal:
//
//  set      uvarint  index of the rule set in the dispatch table
//  base     uvarint  sequence of the first record
//  records, each
//    delta  uvarint  sequence minus the previous record's (the first: minus base, which is 0)
//    count  uvarint  decisions
//    decisions, as engine.Decision.Append writes them
//
// It contains only records with a decision for the sink. The decision log frames the chunk.

var errChunk = errors.New("damaged chunk")

// chunkWriter builds one chunk.
type chunkWriter struct {
	data []byte
	last uint64 // sequence of the last record; 0 if empty
}

func (c *chunkWriter) empty() bool { return c.last == 0 }

func (c *chunkWriter) add(set uint32, seq uint64, decisions []engine.Decision) {
	if c.empty() {
		c.data = binary.AppendUvarint(c.data[:0], uint64(set))
		c.data = binary.AppendUvarint(c.data, seq)
		c.last = seq
	}
	c.data = binary.AppendUvarint(c.data, seq-c.last)
	c.data = binary.AppendUvarint(c.data, uint64(len(decisions)))
	for i := range decisions {
		c.data = decisions[i].Append(c.data)
	}
	c.last = seq
}

// take returns the chunk, owned by the caller, and starts a new one.
func (c *chunkWriter) take() chunk {
	out := chunk{data: append([]byte(nil), c.data...), last: c.last}
	c.last = 0
	return out
}

type chunk struct {
	data []byte
	last uint64
}

// chunkReader iterates over a chunk.
type chunkReader struct {
	set  uint32
	seq  uint64
	rest []byte
}

func readChunk(data []byte) (chunkReader, error) {
	set, n := binary.Uvarint(data)
	base, m := binary.Uvarint(data[max(n, 0):])
	if n <= 0 || m <= 0 || set > 1<<32-1 {
		return chunkReader{}, fmt.Errorf("%w: header", errChunk)
	}
	return chunkReader{set: uint32(set), seq: base, rest: data[n+m:]}, nil
}

// next fills decisions with those of the next record and returns its sequence; false at the end.
func (c *chunkReader) next(decisions []engine.Decision) (uint64, []engine.Decision, bool, error) {
	if len(c.rest) == 0 {
		return 0, decisions, false, nil
	}
	delta, n := binary.Uvarint(c.rest)
	count, m := binary.Uvarint(c.rest[max(n, 0):])
	if n <= 0 || m <= 0 {
		return 0, nil, false, fmt.Errorf("%w: after record %d", errChunk, c.seq)
	}
	c.rest = c.rest[n+m:]
	c.seq += delta
	for range count {
		d, n, err := engine.DecodeDecision(c.rest)
		if err != nil {
			return 0, nil, false, fmt.Errorf("%w: record %d: %w", errChunk, c.seq, err)
		}
		c.rest = c.rest[n:]
		decisions = append(decisions, d)
	}
	return c.seq, decisions, true, nil
}
