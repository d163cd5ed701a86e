package sink

import (
	"slices"
	"strings"

	"cellgate/rules/engine"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/state"
)

// rulesCompiler compiles rule sets with package lang. Their sources are stored or about to be, and were checked when
// applied.
func rulesCompiler(o lang.Options) compiler {
	return func(source []byte) (ruleSet, error) {
		src, err := lang.UnmarshalSource(source)
		if err != nil {
			return nil, err
		}
		set, diags := lang.Compile(src, o)
		if diags.HasErrors() {
			return nil, diags
		}
		return compiled{engine.NewRenderer(set), set, set.Rules()}, nil
	}
}

// compiled adapts a lang.Set to ruleSet.
type compiled struct {
	*engine.Renderer
	set  *lang.Set
	info []lang.RuleInfo
}

func (c compiled) hash() string { return c.set.Hash() }

func (c compiled) language() *lang.Set { return c.set }

func (c compiled) ruleIDs() []string {
	ids := make([]string, len(c.info))
	for i := range c.info {
		ids[i] = c.info[i].ID
	}
	return ids
}

func (c compiled) rules() []*lang.Rule { return c.set.Compiled }

func (c compiled) sinkOf(d *engine.Decision) op.SinkKind { return c.Sink(*d) }

func (c compiled) kinds() []op.SinkKind {
	var out []op.SinkKind
	for i := range c.info {
		for _, t := range c.info[i].Targets {
			if !slices.Contains(out, t.Sink) {
				out = append(out, t.Sink)
			}
		}
	}
	return out
}

func (c compiled) topics(kind op.SinkKind) []string { return Topics(c.set, kind) }

// Topics returns the topic names of a set's targets that are not templates, and for Kafka also the error topics.
func Topics(set *lang.Set, kind op.SinkKind) []string {
	var out []string
	info := set.Rules()
	if kind == op.SinkKafka && len(info) > 0 {
		out = append(out, set.ErrTopic)
	}
	for i := range info {
		r := &info[i]
		if kind == op.SinkKafka && r.ErrorTopic != "" {
			out = append(out, r.ErrorTopic)
		}
		for _, t := range r.Targets {
			if t.Sink == kind && !strings.Contains(t.Name, "${") {
				out = append(out, t.Name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c compiled) workers(state *state.State, n int) []evaluator {
	e, workers := engine.NewEngine(c.set, state), make([]evaluator, n)
	for i := range workers {
		workers[i] = e.NewWorker()
	}
	return workers
}

// count counts a rule's match or error.
func (s *setInUse) count(d *engine.Decision) {
	if int(d.Rule) >= len(s.matched) {
		return
	}
	if d.Err != "" {
		s.failed[d.Rule].Inc()
		return
	}
	s.matched[d.Rule].Inc()
}

func (s *setInUse) countUndecoded(d *engine.Decision) {
	for _, r := range d.Undecoded {
		if int(r) < len(s.failed) {
			s.failed[r].Inc()
		}
	}
}
