package sink

import (
	"slices"
	"strings"

	"cellgate/broker/message"
	"cellgate/rules"
)

// rulesCompiler makes rule sets with package rules. Their sources are stored, or are about to be: whoever applies one has
// checked it.
func rulesCompiler(o rules.Options) compiler {
	return func(source []byte) (ruleSet, error) {
		src, err := rules.UnmarshalSource(source)
		if err != nil {
			return nil, err
		}
		set, diags := rules.Compile(src, o)
		if diags.HasErrors() {
			return nil, diags
		}
		return compiled{set: set, info: set.Rules()}, nil
	}
}

// compiled is a rules.Set as the dispatcher sees it.
type compiled struct {
	set  *rules.Set
	info []rules.RuleInfo
}

func (c compiled) hash() string { return c.set.Hash() }

func (c compiled) ruleIDs() []string {
	ids := make([]string, len(c.info))
	for i := range c.info {
		ids[i] = c.info[i].ID
	}
	return ids
}

func (c compiled) sinkOf(d *rules.Decision) rules.SinkKind { return c.set.Sink(*d) }

func (c compiled) kinds() []rules.SinkKind {
	var out []rules.SinkKind
	for _, k := range []rules.SinkKind{rules.SinkKafka, rules.SinkRedis, rules.SinkCentral} {
		if slices.ContainsFunc(c.info, func(r rules.RuleInfo) bool {
			return slices.ContainsFunc(r.Targets, func(t rules.TargetInfo) bool { return t.Sink == k.String() })
		}) {
			out = append(out, k)
		}
	}
	return out
}

// topics are the topic names that are no templates, and for Kafka the error topics.
func (c compiled) topics(kind rules.SinkKind) []string {
	var out []string
	if kind == rules.SinkKafka && len(c.info) > 0 {
		out = append(out, c.set.ErrorTopic())
	}
	for i := range c.info {
		r := &c.info[i]
		if kind == rules.SinkKafka && r.ErrorTopic != "" {
			out = append(out, r.ErrorTopic)
		}
		for _, t := range r.Targets {
			if t.Sink == kind.String() && !strings.Contains(t.Name, "${") {
				out = append(out, t.Name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c compiled) worker(state *rules.State) evaluator {
	return rules.NewEngine(c.set, state).NewWorker()
}

func (c compiled) Render(d rules.Decision, rec *message.Record, out *rules.Rendered) error {
	return c.set.Render(d, rec, out)
}

func (c compiled) RenderDeadLetter(d rules.Decision, reason string, rec *message.Record, out *rules.Rendered) error {
	return c.set.RenderDeadLetter(d, reason, rec, out)
}

// count counts a rule's match or error.
func (s *setInUse) count(d *rules.Decision) {
	if int(d.Rule) >= len(s.matched) {
		return
	}
	if d.Err != "" {
		s.failed[d.Rule].Inc()
		return
	}
	s.matched[d.Rule].Inc()
}

func (s *setInUse) countUndecoded(d *rules.Decision) {
	for _, r := range d.Undecoded {
		if int(r) < len(s.failed) {
			s.failed[r].Inc()
		}
	}
}
