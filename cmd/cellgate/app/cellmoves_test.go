package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// moveRules have state: each fault fires once, the third message, and a battery that has been low for a while.
const moveRules = `
rules:
  - id: once
    from: ["v1/+/up/telemetry"]
    dedupe: {by: payload.fault, within: 10m}
    transform: {vin: vin, fault: payload.fault}
    to: [{kafka: {topic: once}}]
  - id: thrice
    from: ["v1/+/up/telemetry"]
    count: {at_least: 3, window: 10m}
    transform: {vin: vin, n: payload.n}
    to: [{kafka: {topic: thrice}}]
  - id: low
    from: ["v1/+/up/telemetry"]
    threshold: {enter: payload.soc < 15, exit: payload.soc > 20, for: 500ms}
    transform: {vin: vin}
    to: [{kafka: {topic: low}}]
`

// movingVehicles are vehicles that move between gateways.
type movingVehicles struct {
	*rig
	vins []string
	on   map[string]int // by VIN: the gateway
	conn map[string]*mqtt.T
	n    int // rounds
}

func newMovingVehicles(t *testing.T, gateways, vehicles int) *movingVehicles {
	t.Helper()
	r := &movingVehicles{rig: newRigWith(t, gateways, moveRules), on: map[string]int{}, conn: map[string]*mqtt.T{}}
	for i := range vehicles {
		vin := fmt.Sprintf("LTRAVEL%010d", i)
		r.vins = append(r.vins, vin)
		r.goTo(vin, i%gateways)
	}
	return r
}

// goTo connects a vehicle to a gateway.
func (r *movingVehicles) goTo(vin string, gw int) {
	r.t.Helper()
	r.conn[vin], r.on[vin] = r.connect(gw, vin, mqtt.V5), gw
}

// round has each vehicle send a message, 200 ms or more after the previous one.
func (r *movingVehicles) round() {
	r.t.Helper()
	time.Sleep(200 * time.Millisecond) // the rules use the messages' times
	for i, vin := range r.vins {
		r.conn[vin].Publish(mqtt.Publish{
			Topic: "v1/" + vin + "/up/telemetry", QoS: 1, ID: 1, Payload: fmt.Sprintf(`{"n":%d,"fault":%d,"soc":%d}`, r.n, (r.n+i)%3, 10+i%2*20),
		})
	}
	r.n++
}

// alarms returns what the rules have sent, once it is as much as expected and nothing is under way.
func (r *movingVehicles) alarms() []string {
	r.t.Helper()
	for _, a := range r.gw {
		check.OK(r.t, a.dispatch.CaughtUp(r.t.Context()))
		check.Within(r.t, check.Patience, "all is delivered", func() error {
			for _, l := range a.dispatch.Ledger() {
				if l.Pending > 0 {
					return fmt.Errorf("%+v", l)
				}
			}
			return nil
		})
	}
	var out []string
	for _, topic := range []string{"once", "thrice", "low"} {
		for _, rec := range r.kafka.Read(topic) {
			out = append(out, topic+" "+string(rec.Value))
		}
	}
	slices.Sort(out)
	return out
}

// same compares the alarms with those of one gateway in the same number of rounds.
func (r *movingVehicles) same() {
	r.t.Helper()
	for _, a := range r.gw {
		for _, result := range []string{stateLate, stateLost, stateBusy} {
			if n := r.counted(a, `cell_operator_states_in_total{cell="cell-1",result="`+result+`"}`); n > 0 {
				r.t.Logf("%s: %v states came as %s", a.cfg.Cell.Node, n, result)
			}
		}
	}
	one := newMovingVehicles(r.t, 1, len(r.vins))
	for range r.n {
		one.round()
	}
	got, want := r.alarms(), one.alarms()
	more, fewer := less(got, want), less(want, got)
	if len(want) == 0 || len(fewer) > 0 || len(more) > 0 && !r.lostRedis() {
		r.t.Errorf("%d alarms, with one gateway %d\nmore: %s\nfewer: %s", len(got), len(want), strings.Join(more, "\n\t"), strings.Join(fewer, "\n\t"))
	}
}

// lostRedis reports whether a gateway has taken Redis for away, as on a machine without processor time. Then alarms are sent at
// least once, not once.
func (r *rig) lostRedis() bool {
	return slices.ContainsFunc(r.logs, func(l *check.Log) bool { return strings.Contains(l.String(), "Redis does not respond") })
}

// counted returns a gateway's metric.
func (r *rig) counted(a *App, name string) float64 {
	r.t.Helper()
	_, rest, found := strings.Cut(metrics(r.t, a), "cellgate_"+name+" ")
	if !found {
		r.t.Fatalf("%s is not measured", name)
	}
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(value, 64)
	check.OK(r.t, err)
	return n
}

// less returns the elements of a that b does not have.
func less(a, b []string) []string {
	b = slices.Clone(b)
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool {
		at := slices.Index(b, s)
		if at >= 0 {
			b = slices.Delete(b, at, at+1)
		}
		return at >= 0
	})
}

// TestOperatorStateMoves: rules continue with a vehicle's state from its previous gateway, whether that has stopped,
// lost the vehicle, or gets it back.
func TestOperatorStateMoves(t *testing.T) {
	t.Parallel()
	r := newMovingVehicles(t, 3, 6)
	for round := range 6 {
		r.round()
		for i, vin := range r.vins {
			if i%2 == 0 {
				r.conn[vin].Disconnect()
			}
			r.goTo(vin, (i+round)%3)
		}
	}
	r.round()
	for _, a := range r.gw {
		if n := r.counted(a, `cell_operator_states_in_total{cell="cell-1",result="asked"}`); n < 6 && !r.lostRedis() {
			t.Errorf("%s has counted %v", a.cfg.Cell.Node, n)
		}
	}
	r.same()
}

// TestRollingRestart: three gateways are restarted in turn while vehicles move between them. The alarms equal those of
// one gateway without restarts.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	r := newMovingVehicles(t, 3, 9)
	for gw := range r.gw {
		r.round()
		halt(t, r.gw[gw])
		for i, vin := range r.vins {
			if r.on[vin] == gw {
				r.goTo(vin, (gw+1+i%2)%3)
			}
		}
		r.round()
		r.start(gw)
	}
	r.round()
	r.same()
}

// TestStateOfALateClaim: the state of a vehicle that another gateway has just claimed is kept until that could ask for it, however long
// ago the connection began.
func TestStateOfALateClaim(t *testing.T) {
	t.Parallel()
	const vin = "LLATE000000000001"
	r := newMovingVehicles(t, 1, 0)
	a := r.gw[0]
	r.goTo(vin, 0)
	r.conn[vin].Publish(mqtt.Publish{Topic: "v1/" + vin + "/up/telemetry", QoS: 1, ID: 1, Payload: `{"fault":1}`})
	check.Within(t, check.Patience, "the rules to remember the vehicle", func() error {
		if !slices.Contains(a.moves.rules.VINs(), vin) {
			return errors.New("they do not")
		}
		return nil
	})
	one, _ := a.claims.of(vin)
	a.claims.lose(one)
	r.conn[vin].ExpectEnd(0x8E)
	check.Eventually(t, "the connection to end", func() bool { return !a.claims.here(vin) })
	<-one.over
	r.redis.Del(cell.Prefix + "{" + vin + "}:vehicle")
	got, err := a.member.store.Claim(t.Context(), vin, cell.Connection{Node: "gw-9", Boot: "b9", Number: 1}, time.Minute, false)
	check.OK(t, err)
	forgotten := func(settled time.Duration) float64 {
		check.OK(t, a.moves.sweep(t.Context(), settled))
		return testutil.ToFloat64(a.moves.metrics.gone.WithLabelValues(stateForgotten))
	}
	if got.Now-got.Epoch < 30_000 || forgotten(30*time.Second) != 0 {
		t.Errorf("the state of a connection that began at %d and was claimed at %d is forgotten before another gateway can ask for it", got.Epoch, got.Now)
	}
	if forgotten(-time.Minute) != 1 {
		t.Error("the state of a vehicle that another gateway has is kept")
	}
}

// stranger is a gateway that lives only in Redis.
var stranger = cell.Connection{Node: "gw-stranger", Boot: "b"}

// stranger begins a gateway that answers questions, and waits until a knows it.
func (r *movingVehicles) stranger(a *App, answer func(*question) givenState) *cell.Store {
	r.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.redis.Addr(), MaxRetries: -1, DisableIdentity: true, ReadTimeout: time.Minute})
	r.t.Cleanup(func() { _ = client.Close() })
	store := storeAt(r.t, client)
	_, _, err := store.Alive(r.t.Context(), cell.Gateway{Node: stranger.Node, Boot: stranger.Boot, Dir: "d", Start: time.Now(), Mode: "several", Runs: "{}"}, time.Hour)
	check.OK(r.t, err)
	check.OK(r.t, a.liveness.beat(r.t.Context(), time.Minute))
	listening := make(chan struct{}, 1)
	go store.Listen(r.t.Context(), stranger.Node, func() { listening <- struct{}{} }, func(text string) {
		word, rest, _ := strings.Cut(text, " ")
		var q question
		if word != "ask" || json.Unmarshal([]byte(rest), &q) != nil {
			return
		}
		body, _ := json.Marshal(answer(&q))
		_, _ = store.Notify(r.t.Context(), q.From, "answer "+q.ID+" "+string(body))
	})
	<-listening
	return store
}

// strangerClaims has the vehicle connect to the stranger.
func (r *movingVehicles) strangerClaims(store *cell.Store, vin string, number uint64) {
	r.t.Helper()
	conn := stranger
	conn.Number = number
	_, err := store.Claim(r.t.Context(), vin, conn, 0, false)
	check.OK(r.t, err)
}

// lowRules send an alarm when a battery becomes low.
const lowRules = `
rules:
  - id: low
    from: ["v1/+/up/telemetry"]
    threshold: {enter: payload.soc < 15, exit: payload.soc > 20}
    to: [{kafka: {topic: low}}]
`

func low(vin string) mqtt.Publish {
	return mqtt.Publish{Topic: "v1/" + vin + "/up/telemetry", QoS: 1, ID: 1, Payload: `{"soc":10}`}
}

// TestOlderStateIsForgotten: a vehicle whose state was lost with another gateway is not judged by what the rules remember of an earlier
// visit. It could hide an alarm.
func TestOlderStateIsForgotten(t *testing.T) {
	t.Parallel()
	const vin = "LOLDER00000000001"
	r := &movingVehicles{rig: newRigWith(t, 1, lowRules), on: map[string]int{}, conn: map[string]*mqtt.T{}}
	r.goTo(vin, 0)
	r.conn[vin].Publish(low(vin))
	store := r.stranger(r.gw[0], func(*question) givenState { return givenState{Why: "its disk is full"} })
	r.strangerClaims(store, vin, 1)
	r.conn[vin].ExpectEnd(0x8E)
	r.goTo(vin, 0)
	r.conn[vin].Publish(low(vin))
	if alarms := r.alarms(); len(alarms) != 2 {
		t.Errorf("%d alarms: %q", len(alarms), alarms)
	}
}

// TestHeldUntilLost: if the vehicle is back at the gateway that is asked for its state, what it published here meanwhile is not evaluated without
// that. It is not acknowledged either.
func TestHeldUntilLost(t *testing.T) {
	t.Parallel()
	const vin = "LBACK000000000001"
	r := &movingVehicles{rig: newRigWith(t, 1, lowRules), on: map[string]int{}, conn: map[string]*mqtt.T{}}
	back := make(chan struct{})
	var store *cell.Store
	store = r.stranger(r.gw[0], func(*question) givenState {
		time.AfterFunc(200*time.Millisecond, func() { // the notice is late: the fault itself
			defer close(back)
			r.strangerClaims(store, vin, 2)
		})
		return givenState{Why: whyBack}
	})
	r.strangerClaims(store, vin, 1)
	r.goTo(vin, 0)
	r.conn[vin].Send(low(vin).Encode(mqtt.V5))
	<-back
	r.conn[vin].ExpectEnd(0x8E)
	if alarms := r.alarms(); len(alarms) != 0 {
		t.Errorf("%d alarms: %q", len(alarms), alarms)
	}
}

// TestStopTakesStateAlong: a gateway that stops while a vehicle's state comes leaves that for the next one.
func TestStopTakesStateAlong(t *testing.T) {
	t.Parallel()
	const vin = "LALONG00000000001"
	r := &movingVehicles{rig: newRigWith(t, 1, lowRules), on: map[string]int{}, conn: map[string]*mqtt.T{}}
	r.goTo(vin, 0)
	r.conn[vin].Publish(low(vin))
	r.conn[vin].Disconnect()
	state, err := r.gw[0].dispatch.Export(t.Context(), vin)
	check.OK(t, err)
	asked := make(chan struct{})
	store := r.stranger(r.gw[0], func(*question) givenState {
		close(asked)
		time.Sleep(200 * time.Millisecond)
		return givenState{State: state}
	})
	r.strangerClaims(store, vin, 1)
	r.goTo(vin, 0)
	<-asked
	halt(t, r.gw[0])
	left, _, err := store.LeftBy(t.Context(), vin, cell.Connection{Node: "gw-1"})
	if err != nil || left == nil {
		t.Errorf("left %q, %v", left, err)
	}
}

// TestSlowStateIsAwaited: a gateway that has received the question, but takes longer than a vehicle waits for one that
// has not, is waited for, also if its boot before has just been killed.
func TestSlowStateIsAwaited(t *testing.T) {
	t.Parallel()
	const vin = "LSLOW000000000001"
	r := newMovingVehicles(t, 2, 0)
	asks := r.gw[1]
	asks.claims.wait.Store(int64(time.Millisecond))
	asks.moves.wait.Store(int64(time.Millisecond))
	fault := mqtt.Publish{Topic: "v1/" + vin + "/up/telemetry", QoS: 1, ID: 1, Payload: `{"fault":1}`}
	r.goTo(vin, 0)
	r.conn[vin].Publish(fault)
	r.conn[vin].Disconnect()
	state, err := r.gw[0].dispatch.Export(t.Context(), vin)
	check.OK(t, err)

	store := r.stranger(asks, func(*question) givenState {
		time.Sleep(100 * time.Millisecond)
		return givenState{State: state}
	})
	killed := cell.Connection{Node: stranger.Node, Boot: "a"}
	asks.moves.isLate(killed, time.Now())
	if !asks.moves.isUnresponsive(killed) {
		t.Error("vehicles wait for a gateway that has not answered")
	}
	r.strangerClaims(store, vin, 1)

	r.goTo(vin, 1)
	r.conn[vin].Publish(fault)
	if alarms := r.alarms(); len(alarms) != 1 {
		t.Errorf("%d alarms: %q; late: %v", len(alarms), alarms, r.counted(asks, `cell_operator_states_in_total{cell="cell-1",result="late"}`))
	}
}
