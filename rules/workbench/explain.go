package workbench

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
	"cellgate/rules/engine"
	"cellgate/rules/expr"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/state"
)

// Explanation says what a rule set does with one message, and why.
type Explanation struct {
	Topic      string            `json:"topic"`
	VIN        string            `json:"vin"`
	ReceivedAt string            `json:"received_at"`
	Set        string            `json:"rule_set"`
	Rules      []RuleExplanation `json:"rules"`
	// Others counts the rules whose topic filters do not match.
	Others int `json:"others"`
}

// RuleExplanation says what one rule does with the message.
type RuleExplanation struct {
	ID string `json:"id"`
	// Matched means that the rule passes the message to its targets.
	Matched bool `json:"matched"`
	// Stage is where the message stopped: mode, when, an operator's name, error; "" if it matched.
	Stage string `json:"stage,omitempty"`
	// Reason says why it stopped there.
	Reason string `json:"reason,omitempty"`
	// Values are the evaluated parts of the expressions with their values.
	Values  []PartValue      `json:"values,omitempty"`
	Outputs []map[string]any `json:"outputs,omitempty"`
}

// PartValue is a part of an expression and its value for the message, or why it has none.
type PartValue struct {
	Part  string `json:"part"`
	Value any    `json:"value"`
	Error string `json:"error,omitempty"`
}

// maxParts bounds the parts shown for one expression.
const maxParts = 40

// Explain evaluates a record as Eval would and says how each rule with a matching filter came to its result. known is
// the operators' state; nil for a VIN without history. It is read but not changed, and no worker may run on it
// meanwhile. The time is the record's ReceivedAt.
func Explain(s *lang.Set, rec *message.Record, known *state.State) Explanation {
	x := Explanation{Topic: rec.Topic, VIN: rec.VIN(), ReceivedAt: rec.Time().Format(message.TimeLayout), Set: s.Hash()}
	own := copyOf(known, rec.VIN())
	e := explainer{set: s, was: copyOf(known, rec.VIN()), worker: engine.NewEngine(s, own).NewWorker(), rec: rec}
	e.scope = e.worker.Begin(rec, e.watch)
	matched := s.Match(rec.Topic)
	for _, r := range s.Compiled {
		there := slices.Contains(matched, r.Index)
		if r.Def.Mode.Disabled {
			there = slices.ContainsFunc(r.Info.From, func(f string) bool { return message.Match(f, rec.Topic) })
		}
		if !there {
			x.Others++
			continue
		}
		x.Rules = append(x.Rules, e.rule(r))
	}
	return x
}

// Hold marks a rule as held by its limit: matches are counted and not sent.
func (x *Explanation) Hold(rule, limit string) {
	for i := range x.Rules {
		if r := &x.Rules[i]; r.ID == rule && r.Matched {
			r.Reason, r.Outputs = "too many of its messages were errors, the limit is "+limit+": the match is counted, nothing is sent", nil
		}
	}
}

// copyOf returns a state with the part of another one that belongs to a VIN.
func copyOf(known *state.State, vin string) *state.State {
	own := state.NewState(state.StateOptions{})
	if known != nil {
		own.SetShift(known.Shift())
		own.SetListening(known.Listening())
		if data := known.Export(vin); data != nil {
			_ = own.Load(vin, data) //nolint:errcheck // just exported
		}
	}
	return own
}

type explainer struct {
	set    *lang.Set
	was    *state.State // the state before the record
	worker *engine.Worker
	scope  *expr.Scope
	rec    *message.Record
	// r and x are the current rule.
	r *lang.Rule
	x *RuleExplanation
	// last is the operator that ran last, behind means that an output has passed all of them.
	last   *lang.Operator
	behind bool
	// of is the element that item refers to, as shown.
	of string
}

func (e *explainer) rule(r *lang.Rule) RuleExplanation {
	x := RuleExplanation{ID: r.Info.ID}
	e.r, e.x, e.last, e.behind = r, &x, nil, false
	mode := r.Def.Mode
	switch {
	case mode.Disabled:
		x.Stage, x.Reason = "mode", "the rule is disabled"
		return x
	case !mode.TakesPart(e.rec.VIN()):
		x.Stage, x.Reason = "mode", fmt.Sprintf("the vehicle is not among the %s", mode)
		return x
	}
	e.scope.BeginRule()
	if r.Each != nil {
		e.elements(r)
		return x
	}
	x.Values = e.parts(r.Def.When)
	if r.When != nil {
		ok, err := e.scope.Test(r.When)
		if err != nil {
			x.Stage, x.Reason = "error", err.Error()
			return x
		}
		if !ok {
			x.Stage, x.Reason = "when", "the condition is false"
			return x
		}
	}
	matches, err := e.worker.Apply(r)
	switch x.Matched = len(matches) > 0; {
	case err != nil:
		x.Stage, x.Reason = "error", err.Error()
	case !x.Matched:
		x.Stage, x.Reason = e.stop()
	case mode.Shadow:
		x.Reason = isShadow
		return x
	}
	e.outputs(matches)
	return x
}

const isShadow = "the mode is shadow: the match is counted, nothing is sent"

// outputs adds the messages to the targets.
func (e *explainer) outputs(matches []engine.Match) {
	for _, m := range matches {
		for i := range e.r.Targets {
			d := engine.Decision{Rule: e.r.Index, Target: uint16(i), Values: m.Values, Item: m.Item, Window: m.Window} //nolint:gosec // at most maxTargets
			e.x.Outputs = append(e.x.Outputs, e.output(d))
		}
	}
}

// elements explains each element of a rule's list.
func (e *explainer) elements(r *lang.Rule) {
	n, err := e.scope.Items(r.Each)
	switch {
	case err != nil:
		e.x.Stage, e.x.Reason = "error", err.Error()
		return
	case n == 0:
		e.x.Stage, e.x.Reason = "each", "the list is missing or empty"
		return
	}
	var all []engine.Match
	shown := make([]string, n)
	for i := range n {
		matches, why := e.element(r, i)
		shown[i] = fmt.Sprintf("element %d %s", i, why)
		all = append(all, matches...)
	}
	e.x.Reason = strings.Join(shown, "; ")
	if e.x.Matched = len(all) > 0; !e.x.Matched {
		e.x.Stage = "each"
	}
	if r.Def.Mode.Shadow && e.x.Matched {
		e.x.Reason += "; " + isShadow
		return
	}
	e.outputs(all)
}

func (e *explainer) element(r *lang.Rule, i int) (matches []engine.Match, why string) {
	e.last, e.behind, e.of = nil, false, fmt.Sprintf("element %d: ", i)
	defer func() { e.of = "" }()
	if err := e.scope.Item(r.Each, i); err != nil {
		return nil, err.Error()
	}
	e.x.add(e.parts(r.Def.When))
	found, err := e.worker.Element(r, i)
	switch {
	case err != nil:
		return nil, "is an error: " + err.Error()
	case len(found) > 0:
		return slices.Clone(found), "matches"
	}
	stage, reason := e.stop()
	return nil, "stopped at " + stage + ": " + reason
}

// stop returns where the message stopped after the condition, and why.
func (e *explainer) stop() (stage, reason string) {
	switch {
	case e.behind:
		return "having", "the condition is false"
	case e.last != nil:
		return e.last.Name, e.last.Why(e.input())
	case e.r.Event && !e.isFalse(e.r.ItemWhen):
		return "time", "the message does not say when it was measured"
	}
	return "when", "the condition is false"
}

// isFalse reports whether there is a condition and it does not hold.
func (e *explainer) isFalse(condition *expr.Expression) bool {
	if condition == nil {
		return false
	}
	holds, err := e.scope.Test(condition)
	return err == nil && !holds
}

func (e *explainer) input() *op.Input {
	in := e.worker.Input()
	in.Scope, in.Memory.State, in.Memory.Key = e.scope, e.was, e.last.Key
	return &in
}

// watch records the operator that is about to run.
func (e *explainer) watch(op *lang.Operator) {
	if op == nil {
		e.behind = true
		e.x.add(e.parts(e.r.Def.Having))
		return
	}
	for _, s := range op.Args.Expressions() {
		e.x.add(e.parts(s))
	}
	e.last = op
	e.behind = false
}

func (e *explainer) output(d engine.Decision) map[string]any {
	kind := e.r.Targets[d.Target].Kind
	var out op.Rendered
	if err := e.worker.Render(d, e.rec, &out); err != nil {
		return map[string]any{"target": int(d.Target), "sink": kind, "error": err.Error()}
	}
	v := e.set.View(&out)
	v["target"], v["sink"] = int(d.Target), kind
	return v
}

// add appends the values whose parts are not listed yet.
func (x *RuleExplanation) add(values []PartValue) {
	for _, v := range values {
		if !slices.ContainsFunc(x.Values, func(o PartValue) bool { return o.Part == v.Part }) {
			x.Values = append(x.Values, v)
		}
	}
}

// parts evaluates an expression and all its named parts and comparisons.
func (e *explainer) parts(s *doc.Scalar) []PartValue {
	var out []PartValue
	for _, part := range e.r.Names.Parts(s, e.scope, maxParts) {
		if e.of != "" && itemName.MatchString(part.Text) {
			part.Text = e.of + part.Text
		}
		p := PartValue{Part: part.Text, Value: jsonView(part.Value)}
		if part.Err != nil {
			p.Error = part.Err.Error()
		}
		out = append(out, p)
	}
	return out
}

// itemName matches the element's name in an expression.
var itemName = regexp.MustCompile(`\b` + expr.ItemName + `\b`)

// jsonView returns a value in a form that encoding/json can write.
func jsonView(v any) any {
	switch v := v.(type) {
	case time.Time:
		return v.Format(message.TimeLayout)
	case time.Duration:
		return v.String()
	case expr.RawJSON:
		return string(v)
	}
	return v
}

// Write writes the explanation as text.
func (x *Explanation) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s received %s\n", x.Topic, x.ReceivedAt)
	for _, r := range x.Rules {
		r.write(&b)
	}
	fmt.Fprintf(&b, "%s not looked at: their topics do not match\n", counted(x.Others, "rule"))
	_, err := io.WriteString(w, b.String())
	return err
}

func (x *RuleExplanation) write(b *strings.Builder) {
	mark := "no   "
	if x.Matched {
		mark = "match"
	}
	fmt.Fprintf(b, "%s  %s", mark, x.ID)
	if x.Stage != "" {
		fmt.Fprintf(b, ": stopped at %s", x.Stage)
	}
	if x.Reason != "" {
		fmt.Fprintf(b, ": %s", x.Reason)
	}
	b.WriteByte('\n')
	shown := x.Reason
	for _, v := range x.Values {
		switch {
		case v.Error != "" && v.Error == shown: // an error of the payload as a whole, already shown
		case v.Error != "":
			shown = v.Error
			fmt.Fprintf(b, "         %s: %s\n", v.Part, v.Error)
		default:
			fmt.Fprintf(b, "         %s = %s\n", v.Part, expr.AppendJSON(nil, v.Value))
		}
	}
	for _, o := range x.Outputs {
		fmt.Fprintf(b, "       → %s\n", outputText(o))
	}
}

// outputText formats an output: destination and contents.
func outputText(o map[string]any) string {
	sink, name := o["sink"], o["topic"]
	switch {
	case o["error"] != nil:
		return fmt.Sprintf("%s: %v", sink, o["error"])
	case name == nil:
		rest := maps.Clone(o)
		delete(rest, "sink")
		delete(rest, "target")
		return fmt.Sprintf("%s %s", sink, expr.AppendJSON(nil, rest))
	case o["lane"] != nil:
		return fmt.Sprintf("%s %s, lane %s, key %s: %s", sink, name, o["lane"], o["key"], expr.AppendJSON(nil, o["value"]))
	}
	return fmt.Sprintf("%s %s, key %s: %s", sink, name, o["key"], expr.AppendJSON(nil, o["value"]))
}

// ExplainPaths explains a message with the rules below the paths and writes the result. ok is false if the rules do not
// compile; their findings are written instead.
func ExplainPaths(w io.Writer, paths []string, rec *message.Record, o ToolOptions) (ok bool, err error) {
	ws, err := openPaths(paths)
	if err != nil {
		return false, err
	}
	set, diags := lang.Compile(lang.NewSource(ws.rules), o.Options)
	if diags.HasErrors() {
		if o.JSON {
			return false, writeJSON(w, checkReport{Diagnostics: diags})
		}
		return false, diags.Write(w)
	}
	x := Explain(set, rec, nil)
	if o.JSON {
		return true, writeJSON(w, x)
	}
	return true, x.Write(w)
}
