package op

import (
	"fmt"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
)

// SinkKafka is the cell's Kafka, which also has the dead-letter topics.
const SinkKafka SinkKind = "kafka"

// Kafka describes the target kafka.
var Kafka = Target{
	Kind: SinkKafka,
	Keys: append([]Key{TopicKey}, recordKeys()...),
	New: func(a *Args) Sender {
		return newKafka(a, "")
	},
	View:   kafkaView,
	Expect: []string{"topic", "key", "value", "headers"},
	Reference: "`kafka: {topic: vehicle.alerts, key: payload.battery_id}`: the key is the VIN if `key` is not given or the field " +
		"is missing; messages with the same key keep their order. `headers: none` sends no header, so only key and value identify the vehicle; " +
		"a message whose `key` is missing then goes to `on_error`. `payload: none` sends an empty value: the headers have everything.",
}

// recordKeys returns the keys of a record other than its topic.
func recordKeys() []Key {
	return []Key{{Name: "key", Value: expressionValue}, {Name: "headers", Value: NoneValue()}, {Name: "payload", Value: NoneValue()}}
}

// NoneValue is the value of a key that leaves a part of a message out.
func NoneValue() Value {
	return oneOfValue("something that can be left out", doc.CodeWrongType, "write none, or remove the key", nothing)
}

// None reports whether a key with NoneValue leaves its part out.
func (a *Args) None(key string) bool { return a.Text(key) == nothing }

// nothing is the word for a part of a message that is not sent.
const nothing = "none"

type kafkaTarget struct {
	topic     *expr.Template
	key       *expr.Expression // nil: the VIN
	transform *expr.Value      // nil: the payload
	lane      string
	bare      bool // without headers
	empty     bool // without a value
}

func newKafka(a *Args, lane string) Sender {
	t := &kafkaTarget{key: a.expression("key"), topic: a.topic(), lane: lane, bare: a.None("headers"), empty: a.None("payload")}
	if t.topic == nil {
		return nil
	}
	if !t.empty {
		t.transform = a.Transform()
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
	if !t.empty {
		if err := r.Body(sc, t.transform); err != nil {
			return err
		}
	}
	if t.bare {
		r.Bare, r.Headers = true, r.Headers[:0]
	}
	return nil
}

// Body renders the value: the transform, else the payload as received. It sets the content-type header.
func (r *Rendered) Body(sc *expr.Scope, transform *expr.Value) (err error) {
	if transform == nil {
		r.Value = sc.Record.Payload
		if ct := sc.Record.Props.ContentType; ct != "" {
			r.Header("content-type", ct)
		}
		return nil
	}
	from := len(r.Buf)
	if r.Buf, err = transform.Render(sc, r.Buf); err != nil {
		return err
	}
	r.Value = r.Buf[from:len(r.Buf):len(r.Buf)]
	r.Header("content-type", "application/json")
	return nil
}

// renderKey renders the key. If the rule's key is missing in the message, the VIN is used: without a key the vehicle's
// messages would lose their order. A record without headers must not reveal the vehicle, so there a missing key is an
// error.
func (t *kafkaTarget) renderKey(sc *expr.Scope, r *Rendered) (err error) {
	ok := false
	if t.key != nil {
		if r.Buf, ok, err = sc.AppendPlain(r.Buf, t.key); err != nil {
			return err
		}
	}
	if !ok && t.key != nil && t.bare {
		return fmt.Errorf("%w: its key is missing, and with `headers: none` the VIN does not take its place", expr.ErrRender)
	}
	if !ok {
		r.Buf = append(r.Buf, sc.VIN...)
	}
	r.Key = r.Buf[:len(r.Buf):len(r.Buf)]
	return nil
}

func kafkaView(r *Rendered) map[string]any {
	v := map[string]any{"topic": r.Topic, "key": string(r.Key), "value": PayloadView(r.Value)}
	if r.Lane != "" {
		v["lane"] = r.Lane
	}
	v["headers"] = r.HeadersView()
	return v
}

// HeadersView returns the headers as tests and explanations show them.
func (r *Rendered) HeadersView() map[string]any {
	headers := map[string]any{}
	for _, h := range r.Headers {
		headers[h.Name] = h.Value
	}
	return headers
}
