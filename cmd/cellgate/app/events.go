package app

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// eventStreams are the open streams of server-sent events (HTML, 9.2). They last until the client ends them.
type eventStreams struct {
	ending context.Context //nolint:containedctx // the life of the gateway, not of a call
	end    context.CancelFunc
}

func newEventStreams() eventStreams {
	ending, end := context.WithCancel(context.Background())
	return eventStreams{ending, end}
}

// stop ends all of them.
func (e *eventStreams) stop(context.Context) error {
	e.end()
	return nil
}

const (
	// eventsIdle is the interval of comments on an idle stream. They keep proxies from closing it and show when the
	// client is gone.
	eventsIdle = 15 * time.Second
	// eventsPatience is how long a client may read nothing before the stream ends.
	eventsPatience = 10 * time.Second
)

// eventStream is an open stream.
type eventStream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// begin answers a request with a stream. The context ends with the request and with the gateway.
func (e *eventStreams) begin(w http.ResponseWriter, r *http.Request) (*eventStream, context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	release := context.AfterFunc(e.ending, cancel)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // proxies must not buffer the answer
	s := &eventStream{w, http.NewResponseController(w)}
	_ = s.rc.SetReadDeadline(time.Time{}) //nolint:errcheck // otherwise the stream ends with the read timeout, and the client opens another
	return s, ctx, func() { release(); cancel() }
}

// send writes events, each as JSON. Without events it writes a comment that keeps the stream open. An error means that
// the client is gone.
func send[T any](s *eventStream, events ...T) error {
	out := []byte(nil)
	for i := range events {
		b, err := json.Marshal(events[i])
		if err != nil {
			return err
		}
		out = append(append(append(out, "data: "...), b...), "\n\n"...)
	}
	if len(events) == 0 {
		out = []byte(":\n\n")
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(eventsPatience)) //nolint:errcheck // writers without deadlines have limits of their own
	if _, err := s.w.Write(out); err != nil {
		return err
	}
	return s.rc.Flush()
}
