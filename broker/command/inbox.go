package command

import (
	"context"
	"sync"
)

// maxSubmitted bounds the requests that wait for the loop, maxFollowed what follows from elsewhere, such as records of
// Kafka and results: a backlog of these keeps no place from a request. One more makes its caller wait.
const (
	maxSubmitted = 4096
	maxFollowed  = 1024
)

// request is one change for the loop. A nil run is a barrier.
type request struct {
	must  bool // try again when the store fails
	run   func(*batch) error
	note  func()      // changes memory alone, after the transaction; instead of run
	done  chan error  // capacity 1, or nil
	then  func(error) // called with what came of it, or nil; it must not block
	err   error
	id    string // of the command, for who hears that nothing is known of it
	over  sync.Once
	slots chan struct{} // where the submitter's slot goes back to, or nil
}

// release gives its place back.
func (r *request) release() {
	if r.slots != nil {
		<-r.slots
	}
}

// finish tells what came of it. Who gave up before hears nothing more.
func (r *request) finish(err error) {
	r.over.Do(func() {
		r.release()
		if r.done != nil {
			r.done <- err
		}
		if r.then != nil {
			r.then(err)
		}
	})
}

// inbox is what the loop has to do. Callbacks never wait for it: what they may add is bounded by the
// deliveries that are outstanding.
type inbox struct {
	wake     chan struct{} // capacity 1
	slots    chan struct{}
	followed chan struct{} // slots of what must be done

	mu        sync.Mutex
	requests  []*request
	readyVINs map[string]struct{}
	closed    bool
}

func newInbox() *inbox {
	return &inbox{
		wake: make(chan struct{}, 1), slots: make(chan struct{}, maxSubmitted), followed: make(chan struct{}, maxFollowed),
		readyVINs: map[string]struct{}{},
	}
}

// put waits for room.
func (i *inbox) put(ctx context.Context, r *request) error {
	if err := i.reserve(ctx, r); err != nil {
		return err
	}
	if !i.add(r) {
		r.release()
		return ErrClosed
	}
	return nil
}

// reserve waits for room, which r then has until it is finished.
func (i *inbox) reserve(ctx context.Context, r *request) error {
	r.slots = i.slots
	if r.must {
		r.slots = i.followed
	}
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		r.slots = nil
		return ctx.Err()
	}
	return nil
}

func (i *inbox) post(r *request) { i.add(r) }

func (i *inbox) add(r *request) bool {
	i.mu.Lock()
	if i.closed {
		i.mu.Unlock()
		return false
	}
	i.requests = append(i.requests, r)
	i.mu.Unlock()
	i.signal()
	return true
}

func (i *inbox) ready(vin string) {
	i.mu.Lock()
	if i.closed {
		i.mu.Unlock()
		return
	}
	i.readyVINs[vin] = struct{}{}
	i.mu.Unlock()
	i.signal()
}

func (i *inbox) close() {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	i.signal()
}

func (i *inbox) signal() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox into the loop's hands.
func (i *inbox) take() (requests []*request, ready map[string]struct{}, closed bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	requests, i.requests = i.requests, nil
	if len(i.readyVINs) > 0 {
		ready, i.readyVINs = i.readyVINs, map[string]struct{}{}
	}
	return requests, ready, i.closed
}
