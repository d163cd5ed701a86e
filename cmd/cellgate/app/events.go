package app

import (
	"encoding/json"
	"net/http"
	"time"

	"cellgate/broker/shared/trace"
)

const (
	// eventsIdle is the interval of comments on an idle stream. They keep proxies from closing it and show when the
	// client has disconnected.
	eventsIdle = 15 * time.Second
	// eventsPatience is how long a client may read nothing before the stream ends.
	eventsPatience = 10 * time.Second
)

// eventStream is the stream of a trace (HTML, 9.2).
type eventStream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func newEventStream(w http.ResponseWriter) *eventStream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // proxies must not buffer the answer
	s := &eventStream{w, http.NewResponseController(w)}
	_ = s.rc.SetReadDeadline(time.Time{}) //nolint:errcheck // otherwise the stream ends with the read timeout, and the client opens another
	return s
}

// send writes steps, each as an event. Without steps it writes a comment that keeps the stream open. An error means that the
// client has disconnected.
func (s *eventStream) send(steps []trace.Step) error {
	out := []byte(nil)
	for i := range steps {
		b, err := json.Marshal(steps[i])
		if err != nil {
			return err
		}
		out = append(append(append(out, "data: "...), b...), "\n\n"...)
	}
	if len(steps) == 0 {
		out = []byte(":\n\n")
	}
	return s.write(out)
}

func (s *eventStream) write(text []byte) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(eventsPatience)) //nolint:errcheck // writers without deadlines have limits of their own
	if _, err := s.w.Write(text); err != nil {
		return err
	}
	return s.rc.Flush()
}
