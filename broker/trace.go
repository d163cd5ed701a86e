package broker

import (
	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
)

// traceRefusal reports a refused PUBLISH to the trace. Tokens are not traced.
func (c *conn) traceRefusal(in *frame.Inbound, topic string, code byte, why string) {
	if topic == "" || !c.b.trace.On() {
		return
	}
	c.b.trace.Refused(&message.Record{Client: c.key, Topic: topic, QoS: in.QoS, Payload: in.Payload}, code, why)
}
