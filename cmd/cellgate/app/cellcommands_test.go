package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/broker/command"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// opened waits until commands can be decided at every gateway.
func (r *rig) opened() {
	r.t.Helper()
	for _, a := range r.gw {
		check.Within(r.t, check.Patience, "the cell decides", func() error { return a.member.ready(0) })
	}
}

// serve connects a vehicle that executes each command id once, until its connection ends.
func (r *rig) serve(gw int, vin string) (done func() map[string]int) {
	r.t.Helper()
	c := r.connect(gw, vin, mqtt.V5)
	c.Subscribe(mqtt.Filter("v1/"+vin+"/cmd/#", 1))
	var mu sync.Mutex
	executed := map[string]int{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := uint16(1); ; {
			p, err := c.Read()
			if err != nil {
				return
			}
			if !strings.Contains(p.Topic, "/cmd/") || c.Client.Acknowledge(p) != nil {
				continue
			}
			id := strings.Split(p.Topic, "/")[3]
			mu.Lock()
			executed[id]++
			again := executed[id] > 1
			mu.Unlock()
			if !again {
				n++
				if c.Client.Send(mqtt.Publish{Topic: "v1/" + vin + "/res/" + id + "/succeeded", QoS: 1, ID: n}.Encode(mqtt.V5)) != nil {
					return
				}
			}
		}
	}()
	return func() map[string]int {
		c.Drop()
		<-ended
		return executed
	}
}

// outcomes returns the published states of each command, in any order.
func (r *rig) outcomes() map[string]string {
	out := map[string]string{}
	for _, rec := range r.kafka.Read(topicResults) {
		var v struct{ ID, State string }
		check.OK(r.t, json.Unmarshal(rec.Value, &v))
		out[v.ID] += " " + v.State
	}
	return out
}

// TestCommandsOfTheCell: commands from Kafka reach vehicles at either gateway and are published once. One is sent to a
// gateway that does not have the vehicle, and one is cancelled at a gateway that did not accept it.
func TestCommandsOfTheCell(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2)
	r.opened()
	const n = 200
	var vehicles []func() map[string]int
	for i := range 10 {
		vehicles = append(vehicles, r.serve(i%2, fmt.Sprintf("LFLEET%011d", i)))
	}
	for i := range n {
		r.kafka.Write(topicCommands, "", fmt.Sprintf(`{"id":"k%d","vin":"LFLEET%011d","name":"lock","ttl":"5m"}`, i, i%10))
	}
	at := r.gw[0].commands
	for i := range 10 {
		_, _, err := at.Create(t.Context(), command.Request{ID: fmt.Sprintf("h%d", i), VIN: fmt.Sprintf("LFLEET%011d", i), Name: "lock"})
		check.OK(t, err)
	}
	_, _, err := at.Create(t.Context(), command.Request{ID: "gone", VIN: "LAWAY00000000001", Name: "lock"})
	check.OK(t, err)
	cmd, err := r.gw[1].commands.Cancel(t.Context(), command.Caller{}, "LAWAY00000000001", "gone")
	if err != nil || cmd.State != command.Cancelled {
		t.Errorf("cancelled at the other gateway: %+v %v", cmd, err)
	}
	check.Within(t, 2*time.Minute, "everything is told", func() error {
		told := r.outcomes()
		var missing []error
		for i := range n + 10 {
			id := fmt.Sprintf("k%d", i)
			if i >= n {
				id = fmt.Sprintf("h%d", i-n)
			}
			for _, state := range []string{"queued", "sent", "delivered", "succeeded"} {
				if strings.Count(told[id], state) != 1 && state != "delivered" {
					missing = append(missing, fmt.Errorf("%s:%s", id, told[id]))
					break
				}
			}
		}
		if told["gone"] != " queued cancelled" && told["gone"] != " cancelled queued" {
			missing = append(missing, errors.New("gone:"+told["gone"]))
		}
		return errors.Join(missing...)
	})
	got := 0
	for _, v := range vehicles {
		for id, times := range v() {
			if got++; times != 1 {
				t.Errorf("%s was sent %d times", id, times)
			}
		}
	}
	if got != n+10 {
		t.Errorf("%d commands of %d arrived", got, n+10)
	}
}
