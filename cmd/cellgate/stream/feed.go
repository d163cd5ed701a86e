package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// queued bounds the events waiting for a reader; queuedBytes bounds their size.
	queued      = 256
	queuedBytes = 1 << 20
	// heartbeat is the longest time without output. A write must take less than two heartbeats.
	heartbeat    = 15 * time.Second
	writeTimeout = 10 * time.Second
	// retry is the browser's delay before it reopens a broken stream, in milliseconds.
	retry = 3000
)

// Event has a name, and data as one line of JSON.
type Event struct {
	Name string
	Data []byte
}

// Feed is the queue of one stream.
type Feed struct {
	wake chan struct{} // capacity 1

	mu    sync.Mutex // guards below
	queue []Event
	bytes int
	end   string
}

// Offer adds an event. It does not block: a reader that is too far behind is dropped.
func (f *Feed) Offer(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end != "" {
		return
	}
	if len(f.queue) >= queued || f.bytes+len(e.Data) > queuedBytes {
		f.end, f.queue, f.bytes = EndSlow, nil, 0
	} else {
		f.queue = append(f.queue, e)
		f.bytes += len(e.Data)
	}
	f.signal()
}

// Send offers a value as JSON.
func (f *Feed) Send(name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		data, _ = json.Marshal(map[string]string{"error": err.Error()})
		name = "error"
	}
	f.Offer(Event{name, data})
}

// End ends the stream after the queued events. It returns the reason of the first call.
func (f *Feed) End(why string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end == "" {
		f.end = why
		f.signal()
	}
	return f.end
}

func (f *Feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *Feed) take() (events []Event, end string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	events, f.queue, f.bytes = f.queue, nil, 0
	return events, f.end
}

// explanations are the details of the last event, by reason.
var explanations = map[string]string{
	EndSlow:     "events came faster than they were read, and some were dropped: open the stream again and begin with the present state",
	EndToken:    "the token has expired or was revoked",
	EndShutdown: "the gateway stops",
	EndFinal:    "there are no more events",
}

// Serve writes the feed's events until it ends, the reader goes away, or expires (if not zero) comes.
func (f *Feed) Serve(w http.ResponseWriter, r *http.Request, expires time.Time) {
	ctx := r.Context()
	if !expires.IsZero() {
		defer time.AfterFunc(time.Until(expires), func() { f.End(EndToken) }).Stop()
	}
	to := http.NewResponseController(w)
	_ = to.SetReadDeadline(time.Time{}) //nolint:errcheck // that of a request is not for a stream; HTTP/2 has none
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	var b bytes.Buffer
	fmt.Fprintf(&b, "retry: %d\n\n", retry)
	for write(to, w, &b) == nil && f.wait(ctx) {
		events, end := f.take()
		for _, e := range events {
			fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", e.Name, e.Data)
		}
		if end != "" {
			b.Write(lastEvent(end))
			_ = write(to, w, &b) //nolint:errcheck // it was the last
			return
		}
		if len(events) == 0 {
			b.WriteString(": \n\n") // a comment, so that both ends and those between see that the other is there
		}
	}
}

// lastEvent says why a stream ends.
func lastEvent(end string) []byte {
	last, _ := json.Marshal(map[string]string{"reason": end, "detail": explanations[end]}) //nolint:errcheck // strings
	return append(append([]byte("event: end\ndata: "), last...), "\n\n"...)
}

// Until is for a handler that writes the stream itself. The context ends with the reader, with the feed, and when expires (if not
// zero) comes; then last returns the event to write last, nil for a reader that has gone.
func (f *Feed) Until(ctx context.Context, expires time.Time) (during context.Context, last func() []byte) {
	during, cancel := context.WithCancel(ctx)
	if !expires.IsZero() {
		timer := time.AfterFunc(time.Until(expires), func() { f.End(EndToken) })
		context.AfterFunc(during, func() { timer.Stop() })
	}
	go func() {
		defer cancel()
		for f.wait(during) {
			if _, end := f.take(); end != "" {
				return
			}
		}
	}()
	return during, func() []byte {
		cancel()
		if end := f.End(EndGone); end != EndGone {
			return lastEvent(end)
		}
		return nil
	}
}

// wait returns when there is something to write or a heartbeat is due. It returns false when the reader is gone.
func (f *Feed) wait(ctx context.Context) bool {
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-f.wake:
	case <-beat.C:
	}
	return true
}

func write(to *http.ResponseController, w http.ResponseWriter, b *bytes.Buffer) error {
	_ = to.SetWriteDeadline(time.Now().Add(writeTimeout)) //nolint:errcheck // tests' recorders have none
	if _, err := b.WriteTo(w); err != nil {
		return err
	}
	return to.Flush()
}
