package rules

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/valyala/fastjson"

	"cellgate/broker/message"
)

// Errors of Render. An error other than ErrDecision is a fault of the record or the rule: the record
// belongs to the rule's error topic (RenderDeadLetter), and rendering again gives the same error.
var (
	// ErrDecision is a decision that the set cannot have made, or a shadow decision.
	ErrDecision = errors.New("not a decision of this rule set")
	// ErrRender is wrapped by errors of targets that cannot be made of this record.
	ErrRender = errors.New("the message cannot be made")
)

// Render makes the message of a decision of this set. It depends on the decision and the record alone:
// the same give the same bytes, in any process, at any time. It is safe for concurrent use; a Worker's
// Render is cheaper right after its Eval.
func (s *Set) Render(d Decision, rec *message.Record, r *Rendered) error {
	sc := s.scopes.Get().(*scope) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer s.scopes.Put(sc)
	sc.begin(rec)
	return sc.render(d, r)
}

// RenderDeadLetter makes the message that takes a record to the error topic of a decision's rule because
// a target refused it, or because Render failed: the original payload with the headers error, rule and
// target. A payload that cannot be decoded is no fault of a rule: it goes to the set's topic, with the first of the rules that
// need it in the header rule, all of them in rules, and their number in rules-failed.
func (s *Set) RenderDeadLetter(d Decision, reason string, rec *message.Record, r *Rendered) error {
	if int(d.Rule) >= len(s.rules) {
		return fmt.Errorf("%w: rule %d of %d", ErrDecision, d.Rule, len(s.rules))
	}
	rule := s.rules[d.Rule]
	r.reset()
	r.Sink, r.DeadLetter, r.Reason = SinkKafka, true, reason
	r.Topic, r.Value = rule.errTopic, rec.Payload
	if d.Target == TargetUndecoded {
		r.Topic = s.errTopic
	}
	r.buf = append(r.buf, rec.VIN()...)
	r.Key = r.buf[:len(r.buf):len(r.buf)]
	target := "none"
	if int(d.Target) < len(rule.targets) {
		target = rule.targets[d.Target].text
	}
	r.header("rule", rule.info.ID)
	r.header("target", target)
	r.header("error", reason)
	if d.Target == TargetUndecoded && len(d.Undecoded) > 0 {
		r.header("rules", s.names(d.Undecoded))
		r.header("rules-failed", strconv.Itoa(len(d.Undecoded)))
	}
	if rec.Props.ContentType != "" {
		r.header("content-type", rec.Props.ContentType)
	}
	return nil
}

// maxRuleNames bounds the names of rules in a header, in bytes, so that a message of a few bytes does not become a large one.
const maxRuleNames = 1024

// names joins the ids of rules, as many as fit.
func (s *Set) names(rules []uint16) string {
	var b strings.Builder
	for _, r := range rules {
		id := s.RuleID(r)
		if b.Len()+1+len(id) > maxRuleNames {
			break
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(id)
	}
	return b.String()
}

func (r *Rendered) reset() {
	*r = Rendered{Headers: r.Headers[:0], buf: r.buf[:0], Redis: RedisOp{Fields: r.Redis.Fields[:0]}}
}

func (r *Rendered) header(name, value string) {
	r.Headers = append(r.Headers, Header{Name: name, Value: value})
}

// render makes the message of a decision for the record that the scope holds.
func (sc *scope) render(d Decision, r *Rendered) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrRender, p)
		}
	}()
	s := sc.set
	switch {
	case d.Shadow || int(d.Rule) >= len(s.rules):
		return fmt.Errorf("%w: rule %d of %d, shadow %t", ErrDecision, d.Rule, len(s.rules), d.Shadow)
	case d.Target == TargetError, d.Target == TargetUndecoded:
		return s.RenderDeadLetter(d, d.Err, sc.rec, r)
	case int(d.Target) >= len(s.rules[d.Rule].targets):
		return fmt.Errorf("%w: target %d of rule %s", ErrDecision, d.Target, s.rules[d.Rule].info.ID)
	}
	rule := s.rules[d.Rule]
	if sc.opers, err = decodeValues(d.Values); err != nil {
		return err
	}
	t := rule.targets[d.Target]
	r.reset()
	r.Sink, r.Lane = t.sink, t.lane
	r.header("rule", rule.info.ID)
	r.header("target", t.text)
	if t.redis != nil {
		err = t.redis.render(sc, rule, r)
	} else {
		err = t.renderKafka(sc, rule, r)
	}
	if err == nil {
		err = checkSize(r.buf)
	}
	return err
}

func (t *target) renderKafka(sc *scope, rule *rule, r *Rendered) error {
	var err error
	if r.Topic, err = t.topic.text(sc); err != nil {
		return err
	}
	if t.topic.parts != nil && !validTopic(r.Topic) {
		return fmt.Errorf("%w: what the template gives is not a Kafka topic name", ErrRender)
	}
	if err := t.renderKey(sc, r); err != nil {
		return err
	}
	if rule.transform == nil {
		r.Value = sc.rec.Payload
		if ct := sc.rec.Props.ContentType; ct != "" {
			r.header("content-type", ct)
		}
		return nil
	}
	from := len(r.buf)
	if r.buf, err = rule.transform.render(sc, r.buf); err != nil {
		return err
	}
	r.Value = r.buf[from:len(r.buf):len(r.buf)]
	r.header("content-type", "application/json")
	return nil
}

// renderKey gives the VIN where the rule's key is missing in the message: without a key the order of the
// vehicle's messages would be lost.
func (t *target) renderKey(sc *scope, r *Rendered) (err error) {
	ok := false
	if t.key != nil {
		if r.buf, ok, err = sc.appendPlain(r.buf, t.key); err != nil {
			return err
		}
	}
	if !ok {
		r.buf = append(r.buf, sc.vin...)
	}
	r.Key = r.buf[:len(r.buf):len(r.buf)]
	return nil
}

// encodeValues is the stored form of operator values: a JSON object.
func encodeValues(values []opValue) []byte {
	dst := []byte{'{'}
	for i, v := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, v.name), ':')
		if t, ok := v.value.(interface{ UnixMilli() int64 }); ok {
			dst = append(dst, `{"ms":`...)
			dst = append(appendJSON(dst, int(t.UnixMilli())), '}')
			continue
		}
		dst = appendJSON(dst, v.value)
	}
	return append(dst, '}')
}

// decodeValues is the inverse; times come back as times.
func decodeValues(b []byte) ([]opValue, error) {
	if len(b) == 0 {
		return nil, nil
	}
	v, err := fastjson.ParseBytes(b)
	if err != nil {
		return nil, fmt.Errorf("%w: its values: %w", ErrDecision, err)
	}
	o, err := v.Object()
	if err != nil {
		return nil, fmt.Errorf("%w: its values: %w", ErrDecision, err)
	}
	var out []opValue
	sc := scope{}
	o.Visit(func(key []byte, item *fastjson.Value) {
		value, verr := sc.native(item)
		if ms := item.GetInt64("ms"); item.Type() == fastjson.TypeObject && item.Exists("ms") {
			value = (&message.Record{ReceivedAt: ms}).Time()
		}
		if verr != nil {
			err = verr
		}
		out = append(out, opValue{string(key), value})
	})
	return out, err
}
