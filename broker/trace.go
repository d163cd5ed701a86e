package broker

import (
	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// traceRefusal tells those who look on that a PUBLISH is not taken. A token is told to nobody.
func (c *conn) traceRefusal(in *frame.Inbound, topic string, code byte, why string) {
	if topic == "" || !c.b.trace.On() {
		return
	}
	c.b.trace.Refused(&message.Record{Client: c.key, Topic: topic, QoS: in.QoS, Payload: in.Payload}, code, why)
}
