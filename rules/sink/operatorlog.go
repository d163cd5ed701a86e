package sink

import (
	"errors"
	"fmt"
	"math"

	"cellgate/broker/shared/message/field"
	"cellgate/broker/wal"
	"cellgate/rules/state"
)

// operatorLog keeps what the rules' operators remember: what has changed from one checkpoint to the next, block after
// block, in segments as those of a decision log. A block is, for each VIN, its length and name and the length and bytes of
// its state, no bytes when it has none any more; what comes later holds. Nothing counts before a checkpoint names a position
// after it, so a checkpoint costs state.db, which has one writer, no more than that position.
//
// So that the log does not grow for ever, checkpoints write all state anew by turns, shard by shard, each about as many VINs as
// have changed anyway. Where such a round began is where the log begins when the round is done.
//
// It belongs to the checkpoint.
type operatorLog struct {
	log          *wal.Log
	segmentBytes int64
	begin        wal.Position // the last state of every VIN is after it
	// The round at hand: where it began, and the shard that comes next.
	rewriting bool
	round     wal.Position
	next      int
	// What is taken and not given out by take, and whether turn has been called for it.
	blocks  [][]byte
	filling []byte
	turned  bool
	// All that was read or taken, for the size of what is in state.
	vins, bytes int64
}

// operatorRange is what a checkpoint tells of the operator log. The zero value is a log without anything.
type operatorRange struct {
	Start wal.Position `json:"start"`
	End   wal.Position `json:"end"`
	// Shift is state.State.Shift.
	Shift int64 `json:"shift,omitempty"`
	// Listening is state.State.Listening.
	Listening state.Listening `json:"listening"`
}

// operatorState is what a checkpoint adds to the operator log.
type operatorState struct {
	blocks    [][]byte     // what is not appended yet
	start     wal.Position // where the log begins once they are durable
	shift     int64
	listening state.Listening
}

// blockBytes is the size of a block, but for the last VIN's state.
const blockBytes = 64 << 10

// takeAtOnce is how many VINs' state is taken while the evaluator stands still: less than a millisecond.
const takeAtOnce = 1000

// openOperatorLog opens the log and puts what it holds into state. An error that wraps wal.ErrDamaged is about damage; what
// could be read before it is in state.
func openOperatorLog(fs wal.FS, dir string, r operatorRange, segmentBytes int64, of *state.State) (*operatorLog, error) {
	log, err := wal.OpenLog(fs, dir, wal.Identity{Name: "operators"}, r.Start, r.End, segmentBytes)
	if err != nil {
		return nil, err
	}
	o := &operatorLog{log: log, segmentBytes: segmentBytes, begin: log.Start()}
	if r.End.Offset > 0 {
		o.begin = r.Start
		if first := log.Start().Segment; first != r.Start.Segment {
			err = fmt.Errorf("%w: %s begins with segment %016x, the checkpoint says %016x", wal.ErrDamaged, dir, first, r.Start.Segment)
		}
	}
	if err = errors.Join(err, o.load(of)); err != nil {
		log.Close()
		return nil, err
	}
	return o, nil
}

// load reads the log from its beginning, or from the first segment that there is.
func (o *operatorLog) load(of *state.State) error {
	pos := o.begin
	if first := o.log.Start(); pos.Segment < first.Segment {
		pos = first
	}
	for {
		data, next, ok, err := o.log.Read(pos)
		if err != nil || !ok {
			o.log.CloseReader()
			return err
		}
		if err := o.block(data, of); err != nil {
			return o.log.Damage(pos, err)
		}
		pos = next
	}
}

var errBlock = errors.New("damaged block of operators' state")

func (o *operatorLog) block(data []byte, of *state.State) error {
	r := field.Reader{B: data}
	for r.Off < len(data) {
		vin, saved := string(r.Bytes()), r.Bytes()
		if r.Bad {
			return errBlock
		}
		if len(saved) == 0 {
			saved = nil
		}
		if err := of.Load(vin, saved); err != nil {
			return err
		}
		o.vins++
	}
	o.bytes += int64(len(data))
	return nil
}

// early takes some of what has changed before take does, so that the evaluator never stands still for long. What changes again
// is taken again, and holds. It reports whether there is more than take should be left with. The evaluator stands still.
func (o *operatorLog) early(of *state.State) (more bool) {
	if of.Changed() <= takeAtOnce {
		return false
	}
	if !o.turned {
		o.turn(of)
		o.turned = true
	}
	of.TakeSome(takeAtOnce, o.put)
	return of.Changed() > takeAtOnce
}

// take takes what has changed since the last time. The evaluator stands still, and what was taken before is appended.
func (o *operatorLog) take(of *state.State) operatorState {
	if !o.turned {
		o.turn(of)
	}
	s := operatorState{start: o.begin, shift: of.Shift(), listening: of.Listening()}
	if o.rewriting && o.next == state.Shards {
		s.start = o.round
	}
	of.TakeChanged(o.put)
	o.endBlock()
	s.blocks, o.blocks, o.turned = o.blocks, nil, false
	return s
}

// put adds a VIN's state to what is taken.
func (o *operatorLog) put(vin string, data []byte) {
	if len(o.filling) >= blockBytes {
		o.endBlock()
		o.filling = make([]byte, 0, blockBytes+blockBytes/8)
	}
	o.filling = field.AppendBytes(field.AppendBytes(o.filling, vin), data)
	o.vins++
}

func (o *operatorLog) endBlock() {
	if len(o.filling) > 0 {
		o.blocks, o.bytes = append(o.blocks, o.filling), o.bytes+int64(len(o.filling))
	}
	o.filling = nil
}

// turn has the round write the shards that it comes to. It begins a round when no more than half of the log is still needed.
func (o *operatorLog) turn(of *state.State) {
	changed, vins := of.Changed(), of.VINs()
	if changed == 0 {
		return
	}
	if !o.rewriting {
		live := int64(vins) * o.bytes / max(1, o.vins)
		if o.log.Bytes() < 2*live+o.segmentBytes {
			return
		}
		o.rewriting, o.round, o.next = true, o.log.End(), 0
	}
	for n := 1 + state.Shards*changed/max(1, vins); n > 0 && o.next < state.Shards; n-- {
		of.MarkChanged(o.next)
		o.next++
	}
}

// save makes durable what was taken. When it fails it may be called again.
func (o *operatorLog) save(s *operatorState, seq uint64) (operatorRange, error) {
	for len(s.blocks) > 0 {
		if err := o.log.Append(s.blocks[0], seq); err != nil {
			return operatorRange{}, err
		}
		s.blocks = s.blocks[1:]
	}
	return operatorRange{s.start, o.log.End(), s.shift, s.listening}, o.log.Sync()
}

// stored is told that a checkpoint names the range that save has returned.
func (o *operatorLog) stored(r operatorRange) error {
	if o.begin = r.Start; o.next == state.Shards {
		o.rewriting, o.next = false, 0
	}
	return o.log.Trim(math.MaxUint64, o.begin)
}

// takeEarly takes the operators' state bit by bit, but for what changes meanwhile. It ends when everything that had changed at the
// beginning has been taken, however fast more does.
func (d *Dispatcher) takeEarly() {
	for n := d.vins.Load() / takeAtOnce; n >= 0; n-- {
		d.evalMu.Lock()
		more := d.operators.early(d.state)
		d.evalMu.Unlock()
		if !more {
			return
		}
	}
}
