package hostile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// TestExpensiveTopics loads the topic index: deep filters and topics, many filters in a packet, thousands of retained
// messages and subscriptions that match them all. Other clients' subscriptions and messages are not affected.
func TestExpensiveTopics(t *testing.T) {
	t.Parallel()
	vehicles := 20
	if full() {
		vehicles = 1000
	}
	var honest atomic.Pointer[subscriber]
	attackUntilDone(t, attackPlan{
		commands: true,
		until: func(*testing.T, *cell) error {
			if o := honest.Load(); o == nil || o.received() < fewest {
				return errors.New("the honest subscriber has not received enough")
			}
			return nil
		},
		attack: func(ctx context.Context, t *testing.T, c *cell) {
			o := startSubscriber(ctx, t, c)
			honest.Store(o)
			defer o.end(t)
			token := c.Cellgate("token", "issue", "--config", c.Config, "--service", "greedy", "--scope", "telemetry:read")
			var all sync.WaitGroup
			defer all.Wait()
			for part := range 4 {
				all.Go(func() {
					for vin := part; vin < vehicles; vin += 4 {
						retainAll(ctx, c, fmt.Sprintf("EVILR%d", vin))
					}
				})
			}
			deep := "v1/+/up" + strings.Repeat("/+", 28_000)
			all.Go(func() { subscribeAgain(ctx, c, "greedy/1", token, deep) })
			all.Go(func() { subscribeAgain(ctx, c, "greedy/2", token, "v1/+/up/"+strings.Repeat("x/", 20), 500) })
			all.Go(func() { subscribeAgain(ctx, c, "greedy/3", token, "v1/+/up/#") })
			all.Go(func() { publishWithoutEnd(ctx, c, "EVILD", "v1/EVILD/up"+strings.Repeat("/x", 15_000)) })
			all.Go(func() { publishWithoutEnd(ctx, c, "EVILE", "v1/EVILE/up"+strings.Repeat("/x", 28)) })
		},
	})
}

// retainAll has a vehicle retain as many messages as permitted.
func retainAll(ctx context.Context, c *cell, vin string) {
	s, err := mqtt.Open(c.Lab, login(vin, ""), nil)
	if err != nil {
		return
	}
	defer s.Drop()
	for n := 0; n < 100 && err == nil && ctx.Err() == nil; n++ {
		_, err = s.Publish(mqtt.Publish{Topic: fmt.Sprintf("v1/%s/up/r/%d", vin, n), Payload: "x", QoS: 1, Retain: true})
	}
}

// subscribeAgain repeatedly subscribes to a filter, or to many with its prefix in one packet, and reads only the
// SUBACKs.
func subscribeAgain(ctx context.Context, c *cell, id, token, filter string, many ...int) {
	var filters []mqtt.Subscription
	if len(many) == 0 {
		filters = append(filters, mqtt.Filter(filter, 1))
	}
	for _, n := range many {
		for i := range n {
			filters = append(filters, mqtt.Filter(fmt.Sprint(filter, i), 1))
		}
	}
	packet := mqtt.Subscribe(mqtt.V4, 1, nil, filters...)
	for ctx.Err() == nil {
		s, err := mqtt.Open(c.MQTT, login(id, token), nil)
		if err != nil {
			continue
		}
		s.Patience = 5 * time.Second
		for err == nil && ctx.Err() == nil {
			err = s.Send(packet)
			for first := byte(0); err == nil && first != mqtt.SUBACK<<4; {
				first, _, err = s.ReadFrame()
			}
		}
		s.Drop()
	}
}

// subscriber is an honest service that repeatedly subscribes, receives a message and unsubscribes.
type subscriber struct {
	stop   context.CancelFunc
	done   chan struct{}
	before *latencies
	failed error

	mu   sync.Mutex
	took *latencies
}

// startSubscriber measures the subscriber without the attack before it returns.
func startSubscriber(ctx context.Context, t *testing.T, c *cell) *subscriber {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	o := &subscriber{stop: cancel, done: make(chan struct{}), took: newLatencies()}
	token := c.Cellgate("token", "issue", "--config", c.Config, "--service", "honest", "--scope", "telemetry:read")
	service, err := mqtt.Open(c.MQTT, login("honest", token), nil)
	check.OK(t, err)
	vehicle, err := mqtt.Open(c.Lab, login("HONEST", ""), nil)
	check.OK(t, err)
	go func() {
		defer close(o.done)
		defer service.Drop()
		defer vehicle.Drop()
		for n := 0; ctx.Err() == nil && o.failed == nil; n++ {
			o.failed = o.round(service, vehicle, fmt.Sprintf("v1/HONEST/up/%d/", n%60_000))
			time.Sleep(20 * time.Millisecond) // interval of rounds
		}
	}()
	time.Sleep(time.Second) // duration of the measurement without the attack
	o.before = o.takeFigures()
	return o
}

// round subscribes to everything below root, receives a message and unsubscribes.
func (o *subscriber) round(service, vehicle *mqtt.Client, root string) error {
	begin := time.Now()
	if codes, err := service.Subscribe(nil, mqtt.Filter(root+"#", 1)); err != nil || codes[0] != 1 {
		return fmt.Errorf("SUBACK % x: %w", codes, err)
	}
	if _, err := vehicle.Publish(mqtt.Publish{Topic: root + "x", Payload: "x", QoS: 1}); err != nil {
		return err
	}
	if _, err := service.Next(); err != nil {
		return err
	}
	o.mu.Lock()
	o.took.add(time.Since(begin))
	o.mu.Unlock()
	_, err := service.Unsubscribe(root + "#")
	return err
}

// fewest is the number of messages that reach the honest subscriber during the attack. Without the attack it takes 0.2 s for them.
const fewest = 5

// received returns the number of messages since takeFigures was called last.
func (o *subscriber) received() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.took.h.TotalCount()
}

func (o *subscriber) takeFigures() *latencies {
	o.mu.Lock()
	defer o.mu.Unlock()
	took := o.took
	o.took = newLatencies()
	return took
}

// end compares the measurements with and without the attack.
func (o *subscriber) end(t *testing.T) {
	t.Helper()
	during := o.takeFigures()
	o.stop()
	<-o.done
	if o.failed != nil {
		t.Errorf("the honest subscriber: %v", o.failed)
	}
	t.Logf("from SUBSCRIBE to the first message: %d times, p50 %v, p99 %v; before p50 %v, p99 %v",
		during.h.TotalCount(), during.at(50), during.at(99), o.before.at(50), o.before.at(99))
	if during.h.TotalCount() < fewest {
		t.Errorf("%d messages reached the honest subscriber", during.h.TotalCount())
	}
	if p99 := during.at(99); full() && p99 > p99Floor && float64(p99) > maxSlower*float64(o.before.at(99)) {
		t.Errorf("p99 %v under attack, %v before", p99, o.before.at(99))
	}
}
