package session

import (
	"testing"

	"cellgate/broker/message"
)

// A retained message that has expired when it is fanned out takes the older one's place all the same.
func TestExpiredRetainedReplaces(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.publish(message.Record{Topic: "r", QoS: 1, Retain: true, Payload: []byte("old")})
	e.publish(message.Record{
		Topic: "r", QoS: 1, Retain: true, Payload: []byte("new"), Props: message.Properties{HasExpiry: true},
	})
	e.publish(message.Record{Topic: "s", QoS: 1, Retain: true, Payload: []byte("other")})
	c, _ := e.attach("svc")
	c.subscribe(sub("#", 1))
	c.expect("s=other q1 #1 retain")
	c.quiet()
}
