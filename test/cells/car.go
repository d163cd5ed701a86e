//go:build real || bench

package cells

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/test/mqtt"
)

const (
	carKeepalive = 20 // seconds
	// carPatience is how long a vehicle waits for an acknowledgement before it reconnects.
	carPatience = 8 * time.Second
	// carHolds is how long a silent connection may stay open: longer than the judge allows.
	carHolds = 90 * time.Second
)

// Habits configure the vehicles' behaviour.
type Habits struct {
	Telemetry  time.Duration // interval of messages; 0: none, pings keep the connection alive
	StayAtMost time.Duration // at one gateway
	SleepMost  time.Duration
	// Settled vehicles do not change gateways.
	Settled bool
	// Exactly: every other message is sent at QoS 2.
	Exactly bool
}

// car is a vehicle that roams between the gateways of a cell.
type car struct {
	*Vehicle
	cell *Cell
	rng  *rand.Rand // only used by the goroutine of live

	habits  atomic.Pointer[Habits]
	asleep  atomic.Bool // disconnect at the end
	at      atomic.Pointer[wire]
	seq     int64 // of the last acknowledged telemetry message
	open    *exact
	wires   int
	mu      sync.Mutex
	did     map[string]string // results by id
	reports []report          // not acknowledged, oldest first
	woken   chan struct{}     // capacity 1: there is a report, or what it should do has changed
}

// report is a vehicle's result of a command.
type report struct{ id, status string }

// exact is a message at QoS 2, until its PUBCOMP.
type exact struct {
	payload  string
	began    time.Time
	before   []string // gateways that it was sent to
	received bool     // PUBREC
}

// exactID is the identifier of all messages at QoS 2, as if from a client that takes the lowest free one.
const exactID = 60_000

// wire is one connection of a vehicle.
type wire struct {
	*mqtt.Client
	number  int
	gateway *Node
	ended   chan struct{}

	mu    sync.Mutex
	acked map[uint16]chan byte
}

func newCar(c *Cell, vin string, seed uint64, h Habits) *car {
	v := &car{Vehicle: &Vehicle{VIN: vin}, cell: c, rng: rand.New(rand.NewPCG(seed, 1)), did: map[string]string{}, woken: make(chan struct{}, 1)} //nolint:gosec // a simulation
	v.habits.Store(&h)
	return v
}

// live roams until ctx ends, then disconnects.
func (v *car) live(ctx context.Context) {
	var w *wire
	for ctx.Err() == nil {
		if w == nil {
			if w = v.connect(ctx, v.cell.pick(v.rng)); w == nil {
				pause(ctx, time.Duration(100+v.rng.IntN(400))*time.Millisecond)
				continue
			}
		}
		if !v.stay(ctx, w) {
			v.hangUp(w)
			w = nil
			continue
		}
		w = v.move(ctx, w)
	}
	if w != nil {
		v.sleep(w)
	}
}

// move ends a stay: by roaming without a DISCONNECT, by a takeover, or by sleeping.
func (v *car) move(ctx context.Context, w *wire) *wire {
	h := v.habits.Load()
	switch n := v.rng.IntN(10); {
	case ctx.Err() != nil || h.Settled && !v.asleep.Load():
		return w
	case h.Settled, n < 3:
		v.sleep(w)
		for v.asleep.Load() && ctx.Err() == nil {
			pause(ctx, 100*time.Millisecond)
		}
		if !h.Settled {
			pause(ctx, time.Duration(v.rng.Int64N(int64(h.SleepMost))))
		}
		return nil
	case n < 7: // the gateway must end the earlier connection
		if young := v.connect(ctx, v.cell.pick(v.rng)); young != nil {
			return young
		}
		return w
	default:
		v.hangUp(w)
		return nil
	}
}

// connect connects to a gateway and subscribes to commands; it returns nil on failure.
func (v *car) connect(ctx context.Context, n *Node) *wire {
	began := time.Now()
	c, err := mqtt.Dial(n.Door, mqtt.V5, nil)
	if err != nil {
		v.cell.failed.Add(1)
		return nil
	}
	c.Patience = carPatience
	err = c.Enter(mqtt.Connect{
		Version: mqtt.V5, ID: v.VIN, Keep: true, Keepalive: carKeepalive, Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 3600)},
	})
	if err != nil {
		v.cell.failed.Add(1)
		c.Drop()
		return nil
	}
	v.wires++
	w := &wire{Client: c, number: v.wires, gateway: n, ended: make(chan struct{}), acked: map[uint16]chan byte{}}
	v.note(Line{What: Entered, Took: time.Since(began), Connection: w.number, Gateway: n.Name})
	c.Patience = carHolds
	v.cell.work.Add(1)
	go v.read(w)
	v.at.Store(w)
	if c.Ack.Present&1 == 0 { // no session
		if code, ok := v.exchange(w, func(id uint16) []byte {
			return mqtt.Subscribe(mqtt.V5, id, nil, mqtt.Filter("v1/"+v.VIN+"/cmd/#", 1))
		}); !ok || code >= 0x80 {
			v.hangUp(w)
			return nil
		}
	}
	return w
}

// stay publishes telemetry and results until the stay ends. It returns false if the connection ended.
func (v *car) stay(ctx context.Context, w *wire) bool {
	h := v.habits.Load()
	until := time.Now().Add(time.Second + time.Duration(v.rng.Int64N(int64(h.StayAtMost))))
	every := cmp.Or(h.Telemetry, carKeepalive*time.Second/4)
	next := time.Now().Add(time.Duration(v.rng.Int64N(int64(every))))
	for ctx.Err() == nil && (h.Settled || time.Now().Before(until)) {
		switch {
		case !v.reportOne(w) || time.Now().After(next) && !v.speak(w, h.Telemetry > 0):
			return false
		case time.Now().After(next):
			next = time.Now().Add(every)
		}
		wait := min(time.Until(next), time.Until(until))
		if h.Settled {
			wait = time.Until(next)
		}
		select {
		case <-w.ended:
			return false
		case <-ctx.Done():
		case <-v.woken:
		case <-time.After(wait):
		}
		if now := v.habits.Load(); now != h || v.asleep.Load() {
			return true
		}
	}
	return true
}

// speak publishes telemetry or sends a ping.
func (v *car) speak(w *wire, telemetry bool) bool {
	if !telemetry {
		return w.Send(mqtt.Pingreq()) == nil
	}
	payload := fmt.Sprintf(`{"seq":%d,"soc":%d,"ts":%d}`, v.seq+1, v.cell.charge.Load(), time.Now().UnixMilli())
	if v.open != nil || v.habits.Load().Exactly && v.seq%2 == 1 {
		return v.exactly(w, payload)
	}
	began := time.Now()
	code, ok := v.publish(w, "v1/"+v.VIN+"/up/telemetry", payload)
	if !ok || code >= 0x80 {
		return false
	}
	v.seq++
	v.acked(began, v.seq, w.gateway.Name)
	return true
}

// exactly publishes a message at QoS 2, or goes on with the one that an earlier connection has left.
func (v *car) exactly(w *wire, payload string) bool {
	resumed := w.Ack.Present&1 == 1
	if v.open != nil && v.open.received && !resumed {
		v.open = nil // with the session
	}
	repeated := v.open != nil
	if !repeated {
		v.open = &exact{payload: payload, began: time.Now()}
	}
	if o := v.open; !o.received {
		code, ok := v.exchangeAs(w, exactID, mqtt.Publish{
			Topic: "v1/" + v.VIN + "/up/telemetry", Payload: o.payload, QoS: 2, ID: exactID, Dup: repeated && resumed,
		}.Encode(mqtt.V5))
		if !ok || code >= 0x80 {
			o.before = append(o.before, w.gateway.Name)
			return false
		}
		o.received = true
		v.seq++
		v.acked(o.began, v.seq, w.gateway.Name, o.before...)
	}
	if _, ok := v.exchangeAs(w, exactID, mqtt.Ack(mqtt.PUBREL, exactID, 0)); !ok {
		return false
	}
	v.open = nil
	return true
}

// reportOne publishes the oldest report, if any.
func (v *car) reportOne(w *wire) bool {
	v.mu.Lock()
	if len(v.reports) == 0 {
		v.mu.Unlock()
		return true
	}
	r := v.reports[0]
	v.mu.Unlock()
	code, ok := v.publish(w, "v1/"+v.VIN+"/res/"+r.id+"/"+r.status, `{}`)
	if !ok || code >= 0x80 {
		return false
	}
	v.mu.Lock()
	if v.reports = v.reports[1:]; len(v.reports) > 0 {
		v.wake()
	}
	v.mu.Unlock()
	if r.status != "accepted" {
		v.note(Line{What: Reported, Connection: w.number, Gateway: w.gateway.Name, ID: r.id, Result: r.status})
	}
	return true
}

func (v *car) publish(w *wire, topic, payload string) (code byte, ok bool) {
	return v.exchange(w, func(id uint16) []byte {
		return mqtt.Publish{Topic: topic, Payload: payload, QoS: 1, ID: id}.Encode(mqtt.V5)
	})
}

// exchange sends a packet with an identifier and waits for its acknowledgement.
func (v *car) exchange(w *wire, frame func(id uint16) []byte) (code byte, ok bool) {
	id := w.PacketID()
	return v.exchangeAs(w, id, frame(id))
}

func (v *car) exchangeAs(w *wire, id uint16, frame []byte) (code byte, ok bool) {
	answer := make(chan byte, 1)
	w.mu.Lock()
	w.acked[id] = answer
	w.mu.Unlock()
	if err := w.Send(frame); err != nil {
		return 0, false
	}
	select {
	case code = <-answer:
		return code, true
	case <-w.ended:
	case <-time.After(carPatience):
	}
	return 0, false
}

// read reads packets until the connection ends.
func (v *car) read(w *wire) {
	defer v.cell.work.Done()
	defer close(w.ended)
	for {
		p, err := w.Read()
		if err != nil || p.Type == mqtt.DISCONNECT {
			break
		}
		switch p.Type {
		case mqtt.PUBACK, mqtt.SUBACK, mqtt.PUBREC, mqtt.PUBCOMP:
			if len(p.Codes) > 0 {
				p.Reason = p.Codes[0]
			}
			w.mu.Lock()
			answer := w.acked[p.ID]
			delete(w.acked, p.ID)
			w.mu.Unlock()
			if answer != nil {
				answer <- p.Reason
			}
		case mqtt.PUBLISH:
			v.receive(w, p)
			if p.QoS() == 1 {
				_ = w.Send(mqtt.Ack(mqtt.PUBACK, p.ID, 0))
			}
		}
	}
	w.Drop()
	v.note(Line{What: Left, Connection: w.number, Gateway: w.gateway.Name})
	v.at.CompareAndSwap(w, nil)
}

// receive executes a command that is new and not expired.
func (v *car) receive(w *wire, p mqtt.Packet) {
	parts := strings.SplitN(p.Topic, "/", 5)
	if len(parts) != 5 || parts[2] != "cmd" {
		return
	}
	var content struct{ Meaning string }
	_ = json.Unmarshal([]byte(p.Payload), &content)
	l := Line{What: Received, Connection: w.number, Gateway: w.gateway.Name, ID: parts[3], Meaning: content.Meaning}
	for _, u := range p.All(mqtt.UserProperty) {
		if u.Name == "expires-at" {
			l.Expires, _ = time.Parse(time.RFC3339, u.Value)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	result, again := v.did[l.ID]
	switch {
	case again:
		l.What = Repeated
	case !l.Expires.IsZero() && time.Now().UnixMilli() > l.Expires.UnixMilli():
		l.What = TooOld
	}
	v.note(l)
	if l.What == Received {
		if result = "succeeded"; len(l.Meaning) > 0 && l.Meaning[len(l.Meaning)-1] == '7' {
			result = "failed"
		}
		v.did[l.ID] = result
		l.What, l.Result = Executed, result
		v.note(l)
		v.reports = append(v.reports, report{l.ID, "accepted"})
	}
	if l.What != TooOld {
		v.reports = append(v.reports, report{l.ID, result})
		v.wake()
	}
}

// wake makes a connected vehicle look for what it has to do.
func (v *car) wake() {
	select {
	case v.woken <- struct{}{}:
	default:
	}
}

// sleep sends a DISCONNECT and closes the connection.
func (v *car) sleep(w *wire) {
	_ = w.Send(mqtt.Disconnect())
	select {
	case <-w.ended:
	case <-time.After(carPatience):
		v.hangUp(w)
	}
}

// hangUp closes a connection without a DISCONNECT, like a broken network.
func (v *car) hangUp(w *wire) {
	w.Drop()
	<-w.ended
}

// quiet returns nil if the vehicle has nothing left to send and is in its final state.
func (v *car) quiet() error {
	v.mu.Lock()
	left := len(v.reports)
	v.mu.Unlock()
	switch w := v.at.Load(); {
	case v.asleep.Load() && w != nil:
		return errors.New(v.VIN + " is not asleep")
	case !v.asleep.Load() && w == nil:
		return errors.New(v.VIN + " is not connected")
	case left > 0 && !v.asleep.Load():
		return fmt.Errorf("%s has %d results that are not acknowledged", v.VIN, left)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
