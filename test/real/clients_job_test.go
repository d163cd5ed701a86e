//go:build real

package real

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// job is the work of any foreign client: connect, subscribe, publish, and then leave, at once or when requested. The
// scripts in clients/ get it as JSON.
type job struct {
	Version   int    `json:"version"`   // 4: MQTT 3.1.1, 5
	Transport string `json:"transport"` // tls, or wss
	Address   string `json:"address"`
	// Second is where a client repeats the job if the server ends its connection and names no other server. Without it,
	// the client ends then.
	Second    string         `json:"second"`
	CA        string         `json:"ca"` // file
	ClientID  string         `json:"client_id"`
	User      string         `json:"user"`
	Password  string         `json:"password"`
	Clean     bool           `json:"clean"` // else the session survives the connection
	Will      *letter        `json:"will"`
	Subscribe []subscription `json:"subscribe"`
	Publish   []letter       `json:"publish"`
	Stay      bool           `json:"stay"`
}

type letter struct {
	Topic   string `json:"topic"`
	Payload string `json:"payload"`
	QoS     byte   `json:"qos"`
}

type subscription struct {
	Filter string `json:"filter"`
	QoS    byte   `json:"qos"`
}

// event is a client's report:
//
//	connected   Code, Present, Address
//	refused     Code and Reference, of CONNACK
//	subscribed  Codes
//	published   QoS, Code: the client's library says that this message is through
//	message     Topic, Payload, QoS
//	ended       Code and Reference of the server's DISCONNECT, 0 without one
//	left        by its own DISCONNECT
//	failed      Why
type event struct {
	Event     string `json:"event"`
	Code      int    `json:"code"`
	Codes     []int  `json:"codes"`
	Present   *bool  `json:"present"` // nil: the client does not show it
	Address   string `json:"address"`
	Reference string `json:"reference"`
	Topic     string `json:"topic"`
	Payload   string `json:"payload"`
	QoS       byte   `json:"qos"`
	Why       string `json:"why"`
}

// running is a running client.
type running struct {
	name   string
	events chan event // closed when the client has ended
	leave  func()     // makes it disconnect as the standard says
	cut    func()     // ends its connection without DISCONNECT
	kept   []event    // read while waiting for another kind

	mu    sync.Mutex // guards ended and what is sent to events
	ended bool
}

func newRunning(name string) *running {
	return &running{name: name, events: make(chan event, 1024), leave: func() {}, cut: func() {}}
}

// record adds an event; after the end it does nothing.
func (r *running) record(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.events <- e
	}
}

func (r *running) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.ended = true
		close(r.events)
	}
}

// patience is how long a test waits for a client's event.
const patience = 30 * time.Second

// next returns the next event of a kind and keeps the others. An unrequested end fails the test.
func (r *running) next(t *testing.T, kind string) event {
	t.Helper()
	if i := slices.IndexFunc(r.kept, func(e event) bool { return e.Event == kind }); i >= 0 {
		e := r.kept[i]
		r.kept = slices.Delete(r.kept, i, i+1)
		return e
	}
	timeout := time.After(patience)
	for {
		select {
		case e, open := <-r.events:
			switch {
			case !open:
				t.Fatalf("%s ended before it told %q; it told %+v", r.name, kind, r.kept)
			case e.Event == kind:
				return e
			case slices.Contains([]string{"refused", "ended", "failed"}, e.Event):
				t.Fatalf("%s told %+v, want %q", r.name, e, kind)
			}
			r.kept = append(r.kept, e)
		case <-timeout:
			t.Fatalf("%s did not tell %q within %v; it told %+v", r.name, kind, patience, r.kept)
		}
	}
}

// all returns the next n events of a kind.
func (r *running) all(t *testing.T, kind string, n int) []event {
	t.Helper()
	list := make([]event, 0, n)
	for range n {
		list = append(list, r.next(t, kind))
	}
	return list
}

// rest waits for the client's end and returns the remaining events of a kind.
func (r *running) rest(t *testing.T, kind string) []event {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e, open := <-r.events:
			if !open {
				return slices.DeleteFunc(r.kept, func(e event) bool { return e.Event != kind })
			}
			r.kept = append(r.kept, e)
		case <-timeout:
			t.Fatalf("%s has not ended within %v", r.name, patience)
		}
	}
}

// done makes the client leave and waits for its end; a remaining message fails the test.
func (r *running) done(t *testing.T) {
	t.Helper()
	r.leave()
	r.next(t, "left")
	if more := r.rest(t, "message"); len(more) != 0 {
		t.Errorf("%s was sent %d messages too many: %+v", r.name, len(more), more)
	}
}
