package hostile

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestExpensiveTopics has clients do what makes the topic index work: deep filters and topics, many filters in a packet,
// retained messages by the thousand and subscriptions that find them all. What others subscribe and are sent goes on.
func TestExpensiveTopics(t *testing.T) {
	t.Parallel()
	vehicles := 20
	if full() {
		vehicles = 1000
	}
	besiege(t, siege{
		commands: true,
		attack: func(ctx context.Context, t *testing.T, c *cell) {
			o := startSubscriber(ctx, t, c)
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

// retainAll has a vehicle retain as many messages as it may.
func retainAll(ctx context.Context, c *cell, vin string) {
	s, err := openRaw(ctx, c.Lab, connectFrame(vin, ""))
	if err != nil {
		return
	}
	defer hangUp(s.Conn)
	for n := 0; n < 100 && err == nil && ctx.Err() == nil; n++ {
		f := publishFrame(1, 1, fmt.Sprintf("v1/%s/up/r/%d", vin, n), "x")
		f[0] |= 1
		if _, err = s.Write(f); err == nil {
			_, _, err = s.frame()
		}
	}
}

// subscribeAgain subscribes to a filter, or to so many that begin like it, in one packet, and reads nothing but the
// SUBACKs.
func subscribeAgain(ctx context.Context, c *cell, id, token, filter string, many ...int) {
	body := []byte{0, 1}
	if len(many) == 0 {
		body = append(append(body, text(filter)...), 1)
	}
	for _, n := range many {
		for i := range n {
			body = append(append(body, text(fmt.Sprint(filter, i))...), 1)
		}
	}
	packet := packet(0x82, body)
	for ctx.Err() == nil {
		s, err := openRaw(ctx, c.MQTT, connectFrame(id, token))
		for err == nil && ctx.Err() == nil {
			_ = s.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err = s.Write(packet); err != nil {
				break
			}
			for first := byte(0); err == nil && first != 0x90; {
				first, _, err = s.frame()
			}
		}
		if s.Conn != nil {
			hangUp(s.Conn)
		}
	}
}

// subscriber is an honest service that subscribes, is sent a message, and unsubscribes, all the time.
type subscriber struct {
	stop   context.CancelFunc
	done   chan struct{}
	before *latencies
	failed error

	mu   sync.Mutex
	took *latencies
}

// startSubscriber returns when the subscriber has been watched alone.
func startSubscriber(ctx context.Context, t *testing.T, c *cell) *subscriber {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	o := &subscriber{stop: cancel, done: make(chan struct{}), took: newLatencies()}
	token := c.Cellgate("token", "issue", "--config", c.Config, "--service", "honest", "--scope", "telemetry:read")
	service, err := openRaw(ctx, c.MQTT, connectFrame("honest", token))
	if err != nil {
		t.Fatal(err)
	}
	vehicle, err := openRaw(ctx, c.Lab, connectFrame("HONEST", ""))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(o.done)
		defer hangUp(service.Conn)
		defer hangUp(vehicle.Conn)
		for id := uint16(1); ctx.Err() == nil && o.failed == nil; id = id%60_000 + 1 {
			o.failed = o.round(service, vehicle, id)
			time.Sleep(20 * time.Millisecond) // the pace of the service
		}
	}()
	time.Sleep(time.Second) // as long as it is watched alone
	o.before = o.takeFigures()
	return o
}

func (o *subscriber) round(service, vehicle raw, id uint16) error {
	begin := time.Now()
	for _, c := range []raw{service, vehicle} {
		_ = c.SetDeadline(begin.Add(30 * time.Second))
	}
	filter := subscribeFrame(id, fmt.Sprintf("v1/HONEST/up/%d/#", id))
	if _, err := service.Write(filter); err != nil {
		return err
	}
	if first, body, err := service.frame(); err != nil || first != 0x90 || body[2] != 1 {
		return fmt.Errorf("SUBACK %#x % x: %w", first, body, err)
	}
	if _, err := vehicle.Write(publishFrame(1, id, fmt.Sprintf("v1/HONEST/up/%d/x", id), "x")); err != nil {
		return err
	}
	if first, _, err := vehicle.frame(); err != nil || first != 0x40 {
		return fmt.Errorf("PUBACK %#x: %w", first, err)
	}
	first, body, err := service.frame()
	if err != nil || first>>4 != 3 {
		return fmt.Errorf("PUBLISH %#x % x: %w", first, body, err)
	}
	o.mu.Lock()
	o.took.add(time.Since(begin))
	o.mu.Unlock()
	at := 2 + int(binary.BigEndian.Uint16(body))
	if _, err := service.Write(append([]byte{0x40, 2}, body[at:at+2]...)); err != nil {
		return err
	}
	unsubscribe := bytes.Clone(filter[:len(filter)-1])
	unsubscribe[0] = 0xA2
	unsubscribe[1]--
	if _, err := service.Write(unsubscribe); err != nil {
		return err
	}
	if first, _, err := service.frame(); err != nil || first != 0xB0 {
		return fmt.Errorf("UNSUBACK %#x: %w", first, err)
	}
	return nil
}

func (o *subscriber) takeFigures() *latencies {
	o.mu.Lock()
	defer o.mu.Unlock()
	took := o.took
	o.took = newLatencies()
	return took
}

// end compares what the subscriber saw with what it saw alone.
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
	if during.h.TotalCount() < 5 { // alone it has as many in a fifth of a second
		t.Errorf("%d messages reached the honest subscriber", during.h.TotalCount())
	}
	if p99 := during.at(99); full() && p99 > p99Floor && float64(p99) > maxSlower*float64(o.before.at(99)) {
		t.Errorf("p99 %v under attack, %v before", p99, o.before.at(99))
	}
}
