package sink

import (
	"errors"
	"fmt"
	"math"

	"cellgate/broker/shared/message/field"
	"cellgate/broker/wal"
	"cellgate/rules/state"
)

// operatorLog stores the operators' state: the changes from checkpoint to checkpoint, in blocks, in segments like those
// of a decision log. For each VIN a block has its length and name, and the length and bytes of its state; no bytes mean
// that the state is removed. Later entries replace earlier ones. An entry counts only once a checkpoint names a
// position after it, so that a checkpoint adds only that position to state.db, which has one writer.
//
// To bound the log, each checkpoint also rewrites the state of some shards in turn, about as many VINs as have changed.
// When such a round is done, the log begins where the round began.
//
// The checkpoint owns it.
type operatorLog struct {
	log          *wal.Log
	segmentBytes int64
	begin        wal.Position // the last state of every VIN is after it
	// The current round: whether there is one, where it began, and the next shard.
	rewriting bool
	round     wal.Position
	next      int
	// What is taken and not yet returned by take, and whether turn was called for it.
	blocks  [][]byte
	filling []byte
	turned  bool
	// Totals read or taken, for the metrics of the state's size.
	vins, bytes int64
}

// operatorRange is the operator log's part of a checkpoint. The zero value is an empty log.
type operatorRange struct {
	Start wal.Position `json:"start"`
	End   wal.Position `json:"end"`
	// Shift is state.State.Shift.
	Shift int64 `json:"shift,omitempty"`
	// Listening is state.State.Listening.
	Listening state.Listening `json:"listening"`
}

// operatorState is a checkpoint's entry in the operator log.
type operatorState struct {
	blocks    [][]byte     // not appended yet
	start     wal.Position // where the log begins once blocks are durable
	shift     int64
	listening state.Listening
}

// blockBytes is the size of a block, exceeded at most by the last VIN's state.
const blockBytes = 64 << 10

// takeAtOnce is the number of VINs taken while the evaluator waits: less than a millisecond.
const takeAtOnce = 1000

// openOperatorLog opens the log and loads it into state. If an error wraps wal.ErrDamaged, state has what could be read
// before the damage.
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

// load reads the log from its beginning, or from the first existing segment.
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

// early takes part of the changes before take, so that the evaluator never waits for long. What changes again is taken
// again and replaces the earlier entry. It reports whether more is left than take should handle. The evaluator must not
// run.
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

// take takes the changes since the last call. The evaluator must not run, and the previous result must be appended.
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

// put adds a VIN's state to the taken blocks.
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

// turn adds the next shards of the round. It begins a round when at most half of the log is still needed.
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

// save makes the taken blocks durable. It may be called again after a failure.
func (o *operatorLog) save(s *operatorState, seq uint64) (operatorRange, error) {
	for len(s.blocks) > 0 {
		if err := o.log.Append(s.blocks[0], seq); err != nil {
			return operatorRange{}, err
		}
		s.blocks = s.blocks[1:]
	}
	return operatorRange{s.start, o.log.End(), s.shift, s.listening}, o.log.Sync()
}

// stored records that a checkpoint with the range returned by save is stored.
func (o *operatorLog) stored(r operatorRange) error {
	if o.begin = r.Start; o.next == state.Shards {
		o.rewriting, o.next = false, 0
	}
	return o.log.Trim(math.MaxUint64, o.begin)
}

// takeEarly takes the operators' state in steps, between which the evaluator runs. It ends when everything that had
// changed at its beginning is taken, however fast more changes.
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
