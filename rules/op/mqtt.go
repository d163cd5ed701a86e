package op

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/message/duration"
	"cellgate/rules/doc"
	"cellgate/rules/expr"
)

// SinkMQTT is the gateway's own MQTT clients.
const SinkMQTT SinkKind = "mqtt"

// maxLevels bounds the levels of a topic that a rule publishes to: every client of every gateway may subscribe to that
// many.
const maxLevels = 8

// MQTT describes the target mqtt.
var MQTT = Target{
	Kind:   SinkMQTT,
	Keys:   mqttKeys(),
	Check:  mqttCheck,
	Schema: mqttSchema,
	New:    newMQTT,
	View:   mqttView,
	Expect: []string{"topic", "value", "ttl", "headers"},
	Reference: "`mqtt: {class: advice}`: to the message's own vehicle, on `v1/{vin}/sys/advice`, which it may read; `mqtt: {topic: \"fleet/${class}\"}`: " +
		"to the MQTT clients that may read the topic. QoS 1, kept for disconnected sessions, for `ttl` if given. See [MQTT](#mqtt).",
}

func mqttKeys() []Key {
	return []Key{
		{Name: "class", Value: PlaceValue("the last level of v1/{vin}/sys/{class}")},
		{Name: "topic", Value: templateValue},
		{Name: "ttl", Value: durationValue},
		{Name: "headers", Value: NoneValue()},
	}
}

type mqttTarget struct {
	class     string         // "": topic
	topic     *expr.Template // nil: class
	transform *expr.Value    // nil: the payload
	ttl       time.Duration
	bare      bool
}

func mqttCheck(o *doc.Object) bool {
	if o.Has("class") == o.Has("topic") && !o.Odd {
		o.Doc.FailAt(o.Node, doc.CodeMQTTTopic, "write class: advice for the vehicle itself, or topic: fleet/advice for others", `"mqtt" needs either "class" or "topic"`)
		return false
	}
	return !o.Odd
}

func mqttSchema() JSON {
	s := keysSchema(mqttKeys())
	s["oneOf"] = []JSON{{"required": []string{"class"}}, {"required": []string{"topic"}}}
	return s
}

func newMQTT(a *Args) Sender {
	t := &mqttTarget{ttl: a.duration("ttl"), bare: a.None("headers"), transform: a.Transform()}
	if s := a.Scalar("class"); s != nil {
		t.class = s.Value
		switch {
		case slices.Contains([]string{"reconnect", "token-expiring"}, s.Value):
			a.Fail(s, doc.CodeMQTTTopic, "choose another name", "%q is reserved for the gateway", s.Value)
		case !doc.ValidID(s.Value):
			a.Fail(s, doc.CodeMQTTTopic, `use letters and digits, inside it also "-", "_" and "."`, "%q is not one level of a topic", s.Value)
		}
		return t
	}
	if t.topic = a.template("topic"); t.topic == nil {
		return nil
	}
	s := a.Scalar("topic")
	a.env.BoundClasses(a.d, *s, t.topic, a.env.Stored)
	if why := refusedTopic(t.topic.Sample()); why != "" {
		a.Fail(s, doc.CodeMQTTTopic, "for example fleet/${class}, or cell/${vin}/advice", "%q %s", s.Value, why)
	}
	return t
}

// refusedTopic returns why a rule may not publish to a topic, "" if it may. Topics below v1 are vehicles' messages and
// commands, which a rule must not forge.
func refusedTopic(topic string) string {
	first, _, _ := strings.Cut(topic, "/")
	switch levels := strings.Count(topic, "/") + 1; {
	case message.ValidTopic(topic) != nil:
		return "is not an MQTT topic"
	case first == "v1":
		return "begins with v1: those topics are the vehicles' own; write class: advice for a message to the vehicle"
	case first == "", strings.HasPrefix(first, "$"):
		return "begins with a level that no client may read"
	case levels > maxLevels:
		return fmt.Sprintf("has %d levels, and %d are the most", levels, maxLevels)
	}
	return ""
}

// Render implements Sender.
func (t *mqttTarget) Render(sc *expr.Scope, r *Rendered) (err error) {
	r.TTL, r.Bare = t.ttl, t.bare
	switch {
	case t.topic == nil && sc.VIN == "":
		return fmt.Errorf("%w: the message belongs to no vehicle", expr.ErrRender)
	case t.topic == nil:
		r.Topic = "v1/" + sc.VIN + "/sys/" + t.class
	default:
		if r.Topic, err = t.topic.Text(sc); err != nil {
			return err
		}
		if why := refusedTopic(r.Topic); t.topic.Parts != nil && why != "" {
			return fmt.Errorf("%w: the topic that the template gives %s", expr.ErrRender, why)
		}
	}
	return r.Body(sc, t.transform)
}

func mqttView(r *Rendered) map[string]any {
	v := map[string]any{"topic": r.Topic, "value": PayloadView(r.Value)}
	if r.TTL > 0 {
		v["ttl"] = duration.Text(r.TTL)
	}
	if !r.Bare {
		v["headers"] = r.HeadersView()
	}
	return v
}
