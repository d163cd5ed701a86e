package session

import (
	"fmt"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// An urgent message is placed before all unsent messages that are not urgent.
func TestUrgentGoesBeforeWhatWaits(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("V1", vehicle, func(a *Attach) { a.ReceiveMaximum = 1 })
	c.subscribe(sub("v1/V1/cmd/#", 1))
	for _, text := range []string{"a", "b", "c", "U1", "U2", "d"} {
		d := &message.Delivery{Topic: "v1/V1/cmd/x", Payload: []byte(text), Urgent: text[0] == 'U'}
		check.OK(t, e.m.Deliver("V1", d))
	}
	for i, text := range []string{"a", "U1", "U2", "b", "c", "d"} {
		id := uint16(i + 1)
		c.expect(fmt.Sprintf("v1/V1/cmd/x=%s q1 #%d", text, id))
		c.s.Puback(id, 0)
	}
}
