package fleet

import (
	"encoding/json"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// seen remembers the last commands, because QoS 1 may deliver one twice.
type seen struct {
	ids  [64]string
	next int
}

// first reports whether id is new, and remembers it.
func (s *seen) first(id string) bool {
	for _, known := range s.ids {
		if known == id {
			return false
		}
	}
	s.ids[s.next] = id
	s.next = (s.next + 1) % len(s.ids)
	return true
}

// inbound handles a message from the gateway.
func (v *vehicle) inbound(conn net.Conn, p publish) {
	if p.qos > 0 {
		v.out.Lock()
		v.write(conn, appendPuback(nil, p.id), v.f.now())
		v.out.Unlock()
	}
	rest, own := strings.CutPrefix(p.topic, "v1/"+v.vin+"/")
	branch, rest, _ := strings.Cut(rest, "/")
	switch {
	case !own:
		v.f.stats.reason("message on a topic of another")
	case branch == "cmd":
		if id, name, ok := strings.Cut(rest, "/"); ok && v.seen.first(id) {
			v.execute(id, name)
		}
	case branch == "sys" && rest == "reconnect":
		v.moveTo(conn, p.payload)
	case branch == "sys" && rest == "token-expiring":
		v.refresh()
	}
}

// result is the payload of a command's outcome.
type result struct {
	Name string `json:"name"`
	At   int64  `json:"at"` // ms since 1970
	Took int64  `json:"took_ms,omitempty"`
}

// execute accepts a command at once, and reports success after the time that an actuator would take.
func (v *vehicle) execute(id, name string) {
	v.answer(id, "accepted", result{Name: name, At: time.Now().UnixMilli()})
	took := 50*time.Millisecond + time.Duration(rand.Int64N(int64(250*time.Millisecond))) //nolint:gosec // a simulation
	v.f.later(took, func() {
		v.f.stats.commands.Add(1) // before anybody sees the answer, and may end the run
		v.answer(id, "succeeded", result{Name: name, At: time.Now().UnixMilli(), Took: took.Milliseconds()})
	})
}

func (v *vehicle) answer(id, status string, r result) {
	payload, err := json.Marshal(r)
	if err != nil {
		v.f.o.Log.Error("encode a command's result", "err", err)
		return
	}
	v.send("v1/"+v.vin+"/res/"+id+"/"+status, payload)
}

// refresh publishes a new token on the existing connection.
func (v *vehicle) refresh() {
	token, err := v.f.o.Token(v.vin)
	if err != nil {
		v.f.stats.reason("refresh: %s", cause(err))
		return
	}
	if token != "" {
		v.send("v1/"+v.vin+"/token", []byte(token))
	}
}
