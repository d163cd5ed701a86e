package journal

import (
	"context"
	"reflect"
	"sync"
	"time"

	"cellgate/broker/shared/message"
)

// Waiter is notified when records are durable.
type Waiter interface {
	// Durable is called on the journal's notifier goroutine after a commit that covers records appended with the
	// waiter, once per commit however many calls it covers. mark is the durable mark. It must not block, use a socket,
	// or call the journal's Close. It is never called for records whose commit failed. The waiter should be a pointer:
	// a value that is not comparable is notified once per Append instead.
	Durable(mark uint64)
}

// notifier notifies waiters, readers and WaitDurable of commits. It has its own goroutine, so that the committer can
// continue with the next batch.
//
// Pending notifications are bounded by what is appended between two of its rounds.
type notifier struct {
	wake chan struct{}
	done chan struct{}

	mu      sync.Mutex
	mark    uint64
	flags   message.Flags // of the records committed since the last round
	waiters []Waiter
	awaits  []await
	readers map[*Reader]struct{}
	ended   error // no more commits: ErrClosed or the sticky error

	// For the notifier's goroutine only.
	taken []Waiter
	seen  map[Waiter]struct{}
}

// await is one blocked WaitDurable. The channel holds one value and gets at most one.
type await struct {
	seq uint64
	c   chan struct{}
}

func newNotifier(mark uint64) *notifier {
	return &notifier{
		wake: make(chan struct{}, 1), done: make(chan struct{}), mark: mark,
		readers: make(map[*Reader]struct{}), seen: make(map[Waiter]struct{}),
	}
}

// committed adds the waiters of a batch; the slice stays the caller's.
func (n *notifier) committed(mark uint64, flags message.Flags, waiters []Waiter) {
	n.mu.Lock()
	n.mark = mark
	n.flags |= flags
	n.waiters = append(n.waiters, waiters...)
	n.mu.Unlock()
	n.signal()
}

// end says that nothing more will be committed, and why. The first reason stays.
func (n *notifier) end(why error) {
	n.mu.Lock()
	if n.ended == nil {
		n.ended = why
	}
	n.mu.Unlock()
	n.signal()
}

func (n *notifier) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run works until end, then delivers the remaining notifications.
func (n *notifier) run() {
	defer close(n.done)
	for range n.wake {
		n.mu.Lock()
		mark, ended := n.mark, n.ended != nil
		flags := n.flags
		n.flags = 0
		n.taken, n.waiters = n.waiters, n.taken[:0]
		n.mu.Unlock()
		n.notify(mark)
		n.release(mark, flags, ended)
		if ended {
			return
		}
	}
}

func (n *notifier) notify(mark uint64) {
	for i, w := range n.taken {
		n.taken[i] = nil
		if len(n.taken) > 1 && reflect.TypeOf(w).Comparable() {
			if _, ok := n.seen[w]; ok {
				continue
			}
			n.seen[w] = struct{}{}
		}
		w.Durable(mark)
	}
	clear(n.seen)
}

// release wakes the blocked calls of WaitDurable whose sequence is reached, and the readers.
func (n *notifier) release(mark uint64, flags message.Flags, ended bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	left := n.awaits[:0]
	for _, a := range n.awaits {
		if a.seq <= mark || ended {
			a.c <- struct{}{}
		} else {
			left = append(left, a)
		}
	}
	clear(n.awaits[len(left):])
	n.awaits = left
	for r := range n.readers {
		switch {
		case ended || r.want == 0 || flags&r.want != 0:
			r.signal()
		case !r.due:
			r.due = true
			time.AfterFunc(passPace, func() { n.pass(r) })
		}
	}
}

// passPace is how long a reader waits before it passes over records that it does not want, many at once.
const passPace = 5 * time.Millisecond

// pass wakes a reader for records that it does not want.
func (n *notifier) pass(r *Reader) {
	n.mu.Lock()
	r.due = false
	n.mu.Unlock()
	r.signal()
}

// Await returns when there may be a new record since the last TryNext with one of the flags in want, or any new record
// if want is 0. For other records, which must be passed over, it returns a little later. Errors: ctx's, ErrClosed when
// the journal or the reader was closed, or the journal's sticky error.
func (r *Reader) Await(ctx context.Context, want message.Flags) error {
	n := r.j.notify
	n.mu.Lock()
	r.want = want
	ended := n.ended
	n.mu.Unlock()
	if ended != nil {
		return ended
	}
	select {
	case <-r.wake:
		return nil
	case <-r.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *notifier) wait(ctx context.Context, seq uint64) error {
	n.mu.Lock()
	if n.mark >= seq || n.ended != nil {
		defer n.mu.Unlock()
		if n.mark >= seq {
			return nil
		}
		return n.ended
	}
	a := await{seq: seq, c: make(chan struct{}, 1)}
	n.awaits = append(n.awaits, a)
	n.mu.Unlock()
	select {
	case <-a.c:
	case <-ctx.Done():
		if n.cancel(a.c) {
			return ctx.Err()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mark >= seq {
		return nil
	}
	return n.ended
}

// cancel removes a wait. It reports whether the wait had not been released yet.
func (n *notifier) cancel(c chan struct{}) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.awaits {
		if n.awaits[i].c == c {
			last := len(n.awaits) - 1
			n.awaits[i] = n.awaits[last]
			n.awaits = n.awaits[:last]
			return true
		}
	}
	return false
}

func (n *notifier) attach(r *Reader) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.readers[r] = struct{}{}
}

func (n *notifier) detach(r *Reader) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.readers, r)
}

// endedWith returns why nothing more will be committed, or nil.
func (n *notifier) endedWith() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ended
}
