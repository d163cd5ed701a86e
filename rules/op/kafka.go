package op

import (
	"fmt"

	"cellgate/rules/expr"
)

// SinkKafka is the cell's Kafka, where dead letters go too.
const SinkKafka SinkKind = "kafka"

var kafka = Target{
	Kind: SinkKafka,
	Keys: []Key{TopicKey, {Name: "key", Value: expressionValue}},
	New: func(a *Args) Sender {
		return newKafka(a, "")
	},
	View:   kafkaView,
	Expect: []string{"topic", "key", "value", "headers"},
	Reference: "`kafka: {topic: vehicle.alerts, key: payload.battery_id}`: the key is the VIN unless given, and where the field " +
		"is missing; order is kept per key.",
}

// kafkaTarget makes records of Kafka.
type kafkaTarget struct {
	topic     *expr.Template
	key       *expr.Expression // nil: the VIN
	transform *expr.Value      // nil: the payload
	lane      string
}

func newKafka(a *Args, lane string) Sender {
	t := &kafkaTarget{key: a.expression("key"), topic: a.topic(), transform: a.transform(), lane: lane}
	if t.topic == nil {
		return nil
	}
	return t
}

// Render implements Sender.
func (t *kafkaTarget) Render(sc *expr.Scope, r *Rendered) error {
	var err error
	r.Lane = t.lane
	if r.Topic, err = t.topic.Text(sc); err != nil {
		return err
	}
	if t.topic.Parts != nil && !ValidTopic(r.Topic) {
		return fmt.Errorf("%w: what the template gives is not a Kafka topic name", expr.ErrRender)
	}
	if err := t.renderKey(sc, r); err != nil {
		return err
	}
	if t.transform == nil {
		r.Value = sc.Record.Payload
		if ct := sc.Record.Props.ContentType; ct != "" {
			r.Header("content-type", ct)
		}
		return nil
	}
	from := len(r.Buf)
	if r.Buf, err = t.transform.Render(sc, r.Buf); err != nil {
		return err
	}
	r.Value = r.Buf[from:len(r.Buf):len(r.Buf)]
	r.Header("content-type", "application/json")
	return nil
}

// renderKey gives the VIN where the rule's key is missing in the message: without a key the order of the
// vehicle's messages would be lost.
func (t *kafkaTarget) renderKey(sc *expr.Scope, r *Rendered) (err error) {
	ok := false
	if t.key != nil {
		if r.Buf, ok, err = sc.AppendPlain(r.Buf, t.key); err != nil {
			return err
		}
	}
	if !ok {
		r.Buf = append(r.Buf, sc.VIN...)
	}
	r.Key = r.Buf[:len(r.Buf):len(r.Buf)]
	return nil
}

func kafkaView(r *Rendered) map[string]any {
	v := map[string]any{"topic": r.Topic, "key": string(r.Key), "value": jsonOrText(r.Value)}
	if r.Lane != "" {
		v["lane"] = r.Lane
	}
	headers := map[string]any{}
	for _, h := range r.Headers {
		headers[h.Name] = h.Value
	}
	v["headers"] = headers
	return v
}
