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
	return func(source []byte) (*ruleSet, error) {
		src, err := lang.UnmarshalSource(source)
		if err != nil {
			return nil, err
		}
		set, diags := lang.Compile(src, o)
		if diags.HasErrors() {
			return nil, diags
		}
		return newRuleSet(set), nil
	}
}

// ruleSet is a compiled rule set as the dispatcher uses it.
type ruleSet struct {
	*engine.Renderer
	*lang.Set
	hash string
	info []lang.RuleInfo
	ids  []string // by index
}

func newRuleSet(set *lang.Set) *ruleSet {
	s := &ruleSet{Renderer: engine.NewRenderer(set), Set: set, hash: set.Hash(), info: set.Rules()}
	for i := range s.info {
		s.ids = append(s.ids, s.info[i].ID)
	}
	return s
}

// kinds returns the sinks that the targets need.
func (s *ruleSet) kinds() []op.SinkKind {
	var out []op.SinkKind
	for i := range s.info {
		for _, t := range s.info[i].Targets {
			if !slices.Contains(out, t.Sink) {
				out = append(out, t.Sink)
			}
		}
	}
	return out
}

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

// workers returns n evaluators, each for one goroutine at a time. Creating them adapts state to the set.
func (s *ruleSet) workers(state *state.State, n int) []evaluator {
	e, workers := engine.NewEngine(s.Set, state), make([]evaluator, n)
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
