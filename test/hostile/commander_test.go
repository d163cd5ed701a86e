package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"cellgate/test/check"
	"cellgate/test/scenario"
)

// commander is a service that sends commands to a connected vehicle, which executes each at once. A command that does
// not succeed fails the test.
type commander struct {
	c       *cell
	vin     string
	stop    chan struct{}
	service sync.WaitGroup
	vehicle chan struct{} // closed to stop the vehicle, after the service: a command may be in progress
	driven  sync.WaitGroup

	mu       sync.Mutex
	done     int
	took     *latencies
	failures []error
}

func startCommander(t *testing.T, c *cell) *commander {
	t.Helper()
	o := &commander{c: c, vin: scenario.NewVIN(), stop: make(chan struct{}), vehicle: make(chan struct{}), took: newLatencies()}
	v := scenario.MustV5(t, c.Gateway, o.vin, c.VehicleToken(o.vin))
	_, err := v.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "v1/" + o.vin + "/cmd/#", QoS: 1}}})
	check.OK(t, err)
	o.driven.Go(func() { o.drive(v) })
	o.service.Go(o.send)
	return o
}

func (o *commander) drive(v *scenario.V5) {
	for {
		select {
		case m := <-v.Messages:
			id := strings.Split(m.Topic, "/")[3]
			ctx, cancel := context.WithTimeout(context.Background(), check.Patience)
			_, err := v.Publish(ctx, &paho.Publish{QoS: 1, Topic: "v1/" + o.vin + "/res/" + id + "/succeeded", Payload: []byte(`{}`)})
			cancel()
			if err != nil {
				o.fail(fmt.Errorf("result of command %s: %w", id, err))
			}
		case d := <-v.Closed:
			if !stopped(o.vehicle) {
				o.fail(fmt.Errorf("the vehicle that takes commands was disconnected: %+v", d))
			}
			return
		case <-o.vehicle:
			return
		}
	}
}

var errNotCarriedOut = errors.New("not carried out")

// commandEvery is the interval of commands; a slower command delays the next.
const commandEvery = 100 * time.Millisecond

// send sends commands on schedule and measures from the scheduled time.
func (o *commander) send() {
	for begin := time.Now(); !stopped(o.stop); begin = begin.Add(commandEvery) {
		select {
		case <-o.stop:
			return
		case <-time.After(time.Until(begin)):
		}
		status, body, err := o.c.Do(http.MethodPost, "/v1/vehicles/"+o.vin+"/commands?wait=1m", o.c.operator,
			map[string]any{"name": "unlock", "payload": map[string]any{}, "ttl": "2m"})
		var answer struct{ State string }
		if err == nil {
			err = json.Unmarshal(body, &answer)
		}
		if err == nil && answer.State != "succeeded" {
			err = errNotCarriedOut
		}
		if err != nil {
			o.fail(fmt.Errorf("command after %v: %d %s: %w", time.Since(begin).Round(time.Millisecond), status, body, err))
			continue
		}
		o.mu.Lock()
		o.done++
		o.took.add(time.Since(begin))
		o.mu.Unlock()
	}
}

func (o *commander) fail(err error) {
	o.mu.Lock()
	o.failures = append(o.failures, err)
	o.mu.Unlock()
}

func (o *commander) takeFigures() (int, *latencies) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, took := o.done, o.took
	o.done, o.took = 0, newLatencies()
	return n, took
}

func (o *commander) end(t *testing.T) {
	t.Helper()
	close(o.stop)
	o.service.Wait()
	close(o.vehicle)
	o.driven.Wait()
	for _, err := range o.failures[:min(5, len(o.failures))] {
		t.Error(err)
	}
}
