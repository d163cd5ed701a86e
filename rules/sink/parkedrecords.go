package sink

import (
	"encoding/binary"
	"fmt"

	"cellgate/broker/shared/trace"
	"cellgate/rules/engine"
)

// parkedRecords are a sink's records before its cursor that still have parked messages. They are pending. The
// pipeline's mutex guards it.
type parkedRecords struct {
	records uint64
	// joint are the records with several messages for the sink, by sequence: the last message to settle decides.
	joint map[uint64]*joint
	// noted are the joint records with changed outcomes that no checkpoint has stored: the outcomes of their other
	// messages are stored nowhere else.
	noted map[uint64]bool
	// before are messages after the cursor that were parked before the restart and are delivered again.
	before map[messageKey]bool
}

type joint struct {
	open    int32 // parked messages that are not settled
	outcome outcome
	reason  string
}

// messageKey identifies a message of a sink.
type messageKey struct {
	seq                uint64
	rule, target, item uint16
	window             engine.Window
}

func keyOf(seq uint64, d engine.Decision) messageKey {
	k := messageKey{seq: seq, rule: d.Rule, target: d.Target, item: d.Item}
	if d.Window != nil {
		k.window = *d.Window
	}
	return k
}

func (p *parkedRecords) note(seq uint64) {
	if p.noted == nil {
		p.noted = map[uint64]bool{}
	}
	p.noted[seq] = true
}

// leave takes over a record when the cursor passes it.
func (p *parkedRecords) leave(e *entry) {
	p.records++
	if !e.many {
		return
	}
	p.jointOf(e.seq).open += e.parked
	p.join(e.seq, e.outcome, e.reason)
}

func (p *parkedRecords) jointOf(seq uint64) *joint {
	if p.joint == nil {
		p.joint = map[uint64]*joint{}
	}
	j := p.joint[seq]
	if j == nil {
		j = &joint{}
		p.joint[seq] = j
	}
	return j
}

// join combines the outcome of one of a record's messages with the others'.
func (p *parkedRecords) join(seq uint64, o outcome, reason string) {
	if j := p.jointOf(seq); o > j.outcome {
		j.outcome, j.reason = o, reason
		p.note(seq)
	}
}

// restore counts a parked message from a log.
func (p *parkedRecords) restore(seq uint64, many bool) {
	if !many {
		p.records++
		return
	}
	j := p.jointOf(seq)
	if j.open++; j.open == 1 {
		p.records++
	}
}

// settle counts a parked message's outcome; with the last one it returns that of the record.
func (p *parkedRecords) settle(seq uint64, many bool, o outcome, reason string) (outcome, string, bool) {
	if !many {
		p.records--
		return o, reason, true
	}
	p.join(seq, o, reason)
	j := p.joint[seq]
	if j.open--; j.open > 0 {
		return 0, "", false
	}
	p.records--
	if delete(p.joint, seq); j.outcome > delivered {
		p.note(seq)
	}
	return j.outcome, j.reason, true
}

// resolve settles a parked message.
func (p *pipeline) resolve(seq uint64, many bool, o outcome, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o, reason, ok := p.parked.settle(seq, many, o, reason); ok {
		p.now.settled(o, reason)
		p.settled.settled(o, reason)
		p.watchDone(seq)
	}
}

// park implements settler.
func (p *pipeline) park(t Ticket, dest string, why error) bool {
	if p.env.trace.On() {
		p.env.trace.Settled(t.seq, t.rule, t.target, p.name, trace.Parked, dest+": "+why.Error())
	}
	p.env.parkedStore.add(p, dest, why, &parking{t: t, owner: p})
	return true
}

// parkedNow records that a message is in a log.
func (p *pipeline) parkedNow(t Ticket) {
	p.window.messages.Add(-1)
	p.window.bytes.Add(-int64(t.size))
	p.mu.Lock()
	p.tracker.park(t.slot)
	p.advanceLocked()
	p.mu.Unlock()
	if p.window.starved.Load() {
		p.signal()
	}
}

// parkedBefore reports whether a message about to be delivered was parked before the restart.
func (p *pipeline) parkedBefore(t Ticket) bool {
	if p.window.again.Load() == 0 {
		return false
	}
	p.mu.Lock()
	k := keyOf(t.seq, t.decision())
	was := p.parked.before[k]
	delete(p.parked.before, k)
	p.window.again.Store(int64(len(p.parked.before)))
	p.mu.Unlock()
	if was {
		p.parkedNow(t)
	}
	return was
}

// store adds the changes since the last call to notes: a record's outcome, nil to remove it.
func (p *parkedRecords) store(sink string, notes map[string][]byte) {
	for seq := range p.noted {
		key := noteKey(sink, seq)
		if j := p.joint[seq]; j != nil && j.outcome > delivered {
			notes[key] = append([]byte{byte(j.outcome)}, j.reason...)
		} else {
			notes[key] = nil
		}
	}
	clear(p.noted)
}

func noteKey(sink string, seq uint64) string {
	return string(binary.BigEndian.AppendUint64(append([]byte(sink), 0), seq))
}

// restoreNote loads a stored outcome.
func (p *pipeline) restoreNote(seq uint64, value []byte) error {
	if len(value) == 0 || outcome(value[0]) > dropped {
		return fmt.Errorf("outcome of record %d at %s: % x", seq, p.name, value)
	}
	if j := p.parked.joint[seq]; j != nil {
		j.outcome, j.reason = outcome(value[0]), string(value[1:])
	} else {
		p.parked.note(seq) // to be removed
	}
	return nil
}
