package command

import (
	"context"
	"sync"
)

// maxSubmitted bounds the requests that wait for the loop; maxFollowed bounds records of Kafka and results, so that a
// backlog of these takes no room from requests. Further callers wait for room.
const (
	maxSubmitted = 4096
	maxFollowed  = 1024
)

// request is one change for the loop. A nil run is a barrier.
type request struct {
	must  bool // retry when the store fails
	run   func(*batch) error
	note  func()      // changes only memory, after the transaction; instead of run
	done  chan error  // capacity 1, or nil
	then  func(error) // called with the result, or nil; it must not block
	err   error
	id    string // of the command, for unknownError
	over  sync.Once
	slots chan struct{} // where the submitter's slot is returned, or nil
	holds []*held       // the answers of Redis that run writes
}

// end reports the result of a request that the loop has handled.
func (r *request) end(err error) {
	r.releaseHeld()
	r.finish(err)
}

func (r *request) releaseHeld() {
	for _, h := range r.holds {
		h.release()
	}
}

// release returns the request's slot.
func (r *request) release() {
	if r.slots != nil {
		<-r.slots
	}
}

// finish reports the result, unless the submitter has stopped waiting.
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

// inbox queues work for the loop. Callbacks never wait for it: their number is bounded by the outstanding deliveries.
type inbox struct {
	wake     chan struct{} // capacity 1
	slots    chan struct{}
	followed chan struct{} // slots for records and results

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

// put adds r, waiting for room.
func (i *inbox) put(ctx context.Context, r *request) error {
	if err := i.reserve(ctx, r); err != nil {
		return err
	}
	if !i.add(r) {
		r.release()
		return errClosed
	}
	return nil
}

// reserve waits for a slot, which r keeps until it is finished.
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

// take empties the inbox.
func (i *inbox) take() (requests []*request, ready map[string]struct{}, closed bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	requests, i.requests = i.requests, nil
	if len(i.readyVINs) > 0 {
		ready, i.readyVINs = i.readyVINs, map[string]struct{}{}
	}
	return requests, ready, i.closed
}
