package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Pace is an open-loop QoS 1 load: every connection publishes once a Period, and the connections are spread evenly over
// it, so that there is one message each Period/len(Conns) and never a burst. A message is due at its time whether or
// not earlier ones are acknowledged, and its latency counts from that time: delays of the server and of this generator
// are in the figures.
type Pace struct {
	Conns   []net.Conn
	First   int // Conns[i] is VIN(First+i)
	Period  time.Duration
	Payload []byte
	// StampAt is the offset in Payload at which the 19 digits of the due time in ns are written; 0: none.
	StampAt int
}

// Paced is what a Pace measured.
type Paced struct {
	Sent, Acked int
	// Took is the time from the first due message to the last PUBACK.
	Took time.Duration
	// P50, P99, P999 and Max are the times from a message's due time until its PUBACK was read.
	P50, P99, P999, Max time.Duration
}

// pacers is the number of publishing threads.
const pacers = 2

// ackDeadline bounds a connection's wait for a PUBACK after its last message.
const ackDeadline = 30 * time.Second

// Run publishes for d, at least once and at most 65,535 times per connection, or until stop is closed, and waits for
// the remaining acknowledgements. The connections stay open and may be used again.
func (p Pace) Run(d time.Duration, stop <-chan struct{}) (Paced, error) {
	r := paceRun{
		Pace: p, each: min(max(1, int(d/p.Period)), 1<<16-1), sent: make([]atomic.Int32, len(p.Conns)),
		frames: make([][]byte, len(p.Conns)), done: make(chan struct{}),
	}
	r.latency = make([]int64, len(p.Conns)*r.each)
	for i := range p.Conns {
		r.frames[i], r.idAt = publishFrame("v1/"+VIN(p.First+i)+"/up/telemetry", p.Payload)
	}
	errs := make([]error, len(p.Conns)+pacers)
	// The first message is due when the readers run.
	r.start = time.Now().Add(200 * time.Millisecond)
	var readers, senders sync.WaitGroup
	for i := range p.Conns {
		readers.Go(func() { errs[i] = r.read(i) })
	}
	for k := range pacers {
		senders.Go(func() { errs[len(p.Conns)+k] = r.publish(k, stop) })
	}
	senders.Wait()
	close(r.done)
	r.wakeReaders()
	readers.Wait()
	took := time.Since(r.start)
	for _, c := range p.Conns {
		_ = c.SetReadDeadline(time.Time{})
	}
	measured := r.result()
	measured.Took = took
	return measured, errors.Join(errs...)
}

// paceRun is a Run under way.
type paceRun struct {
	Pace
	each    int // most messages of a connection
	start   time.Time
	frames  [][]byte
	idAt    int
	sent    []atomic.Int32
	latency []int64 // ns of message n of connection i at i*each+n; 0: not acknowledged
	done    chan struct{}
}

// due returns the due time of message n of connection i.
func (r *paceRun) due(i, n int) time.Time {
	share := time.Duration(int64(r.Period) * int64(i) / int64(len(r.Conns)))
	return r.start.Add(time.Duration(n)*r.Period + share)
}

// publish sends for every pacers-th connection. It sleeps in the kernel: the runtime's own timers are a
// millisecond coarse on an idle processor, which would make bursts.
func (r *paceRun) publish(k int, stop <-chan struct{}) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for n := range r.each {
		for i := k; i < len(r.Conns); i += pacers {
			for wait := time.Until(r.due(i, n)); wait > 0; wait = time.Until(r.due(i, n)) {
				ts := syscall.NsecToTimespec(int64(wait))
				_ = syscall.Nanosleep(&ts, nil) // a signal may end it early
			}
			select {
			case <-stop:
				return nil
			default:
			}
			binary.BigEndian.PutUint16(r.frames[i][r.idAt:], uint16(n+1)) //nolint:gosec // Run bounds it
			if r.StampAt > 0 {
				at := len(r.frames[i]) - len(r.Payload) + r.StampAt
				strconv.AppendInt(r.frames[i][:at], r.due(i, n).UnixNano(), 10)
			}
			r.sent[i].Add(1)
			if _, err := r.Conns[i].Write(r.frames[i]); err != nil {
				return fmt.Errorf("publish of %s: %w", VIN(r.First+i), err)
			}
		}
	}
	return nil
}

// wakeReaders ends the reads of connections that expect nothing more, and bounds the others.
func (r *paceRun) wakeReaders() {
	for _, c := range r.Conns {
		_ = c.SetReadDeadline(time.Now())
	}
}

// read reads PUBACKs until all messages are acknowledged and no more will be sent.
func (r *paceRun) read(i int) error {
	c := r.Conns[i]
	var ack [4]byte
	for got, have := 0, 0; ; {
		n, err := c.Read(ack[have:])
		if have += n; have == len(ack) {
			id := int(binary.BigEndian.Uint16(ack[2:]))
			if ack[0] != 0x40 || id == 0 || id > int(r.sent[i].Load()) {
				return fmt.Errorf("%s: %w: % x", VIN(r.First+i), errNotPuback, ack)
			}
			r.latency[i*r.each+id-1] = int64(time.Since(r.due(i, id-1)))
			got, have = got+1, 0
		}
		over := r.over()
		switch {
		case over && got == int(r.sent[i].Load()):
			return nil
		case err == nil:
		case over && isTimeout(err) && time.Since(r.due(i, int(r.sent[i].Load()))) < ackDeadline:
			_ = c.SetReadDeadline(time.Now().Add(ackDeadline))
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%s: closed by the server with %d unacknowledged", VIN(r.First+i), int(r.sent[i].Load())-got)
		default:
			return fmt.Errorf("%s with %d unacknowledged: %w", VIN(r.First+i), int(r.sent[i].Load())-got, err)
		}
	}
}

func (r *paceRun) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func (r *paceRun) result() Paced {
	var p Paced
	for i := range r.sent {
		p.Sent += int(r.sent[i].Load())
	}
	all := slices.DeleteFunc(r.latency, func(ns int64) bool { return ns == 0 })
	slices.Sort(all)
	if p.Acked = len(all); p.Acked == 0 {
		return p
	}
	at := func(q float64) time.Duration { return time.Duration(all[int(q*float64(len(all)-1))]) }
	p.P50, p.P99, p.P999, p.Max = at(0.50), at(0.99), at(0.999), at(1)
	return p
}
