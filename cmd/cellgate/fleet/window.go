package fleet

import (
	"slices"
	"time"
)

// slot is one QoS 1 message that the gateway has not acknowledged.
type slot struct {
	id    uint16
	acked bool
	seq   uint64 // 0: not for the ledger
	off   int    // of its frame in window.frames
	n     int
	sent  time.Duration // since the fleet's beginning
}

// class is the last level of the topic that a vehicle publishes on.
type class uint8

const (
	classTelemetry class = iota
	classAlarm
)

// window keeps the frames of unacknowledged QoS 1 messages in publishing order, for resending. The gateway acknowledges
// in that order, so messages leave at the front.
type window struct {
	slots  []slot
	frames []byte
	lastID uint16
}

func (w *window) open() int { return len(w.slots) }

// take returns an unused packet identifier. There are 65,535, and a window is far smaller.
func (w *window) take() uint16 {
	for {
		w.lastID++
		if w.lastID != 0 && (len(w.slots) == 0 || w.find(w.lastID) < 0) {
			return w.lastID
		}
	}
}

func (w *window) find(id uint16) int {
	return slices.IndexFunc(w.slots, func(s slot) bool { return s.id == id && !s.acked })
}

// add keeps a copy of a frame.
func (w *window) add(s slot, frame []byte) {
	s.off, s.n = len(w.frames), len(frame)
	w.frames = append(w.frames, frame...)
	w.slots = append(w.slots, s)
}

// ack marks the message id as acknowledged and returns it, false if it is not open.
func (w *window) ack(id uint16) (slot, bool) {
	i := w.find(id)
	if i < 0 {
		return slot{}, false
	}
	w.slots[i].acked = true
	return w.slots[i], true
}

// trim removes acknowledged messages at the front, once for all acknowledgements of a read.
func (w *window) trim() {
	n := 0
	for n < len(w.slots) && w.slots[n].acked {
		n++
	}
	if n == 0 {
		return
	}
	if n == len(w.slots) {
		w.slots, w.frames = w.slots[:0], w.frames[:0]
		return
	}
	cut := w.slots[n].off
	w.frames = append(w.frames[:0], w.frames[cut:]...)
	w.slots = append(w.slots[:0], w.slots[n:]...)
	for i := range w.slots {
		w.slots[i].off -= cut
	}
}

// resend appends all open frames to dst, in order, marked as duplicates when the session continues. In
// a new session they are new messages (MQTT 5, 4.4).
func (w *window) resend(dst []byte, present bool, now time.Duration) ([]byte, int) {
	n := 0
	for i := range w.slots {
		s := &w.slots[i]
		if s.acked {
			continue
		}
		f := w.frames[s.off : s.off+s.n]
		f[0] &^= flagDup
		if present {
			f[0] |= flagDup
		}
		s.sent = now
		dst = append(dst, f...)
		n++
	}
	return dst, n
}
