package rules

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr/ast"

	"cellgate/broker/message"
)

// Explanation tells what a rule set does with one message, and why.
type Explanation struct {
	Topic      string            `json:"topic"`
	VIN        string            `json:"vin"`
	ReceivedAt string            `json:"received_at"`
	Set        string            `json:"rule_set"`
	Rules      []RuleExplanation `json:"rules"`
	// Others counts the rules whose topic filters do not match.
	Others int `json:"others"`
}

// RuleExplanation tells what one rule does with the message.
type RuleExplanation struct {
	ID string `json:"id"`
	// Matched says that the rule gives its targets the message.
	Matched bool `json:"matched"`
	// Stage is where the message stopped: mode, when, an operator's name, error; "" when it matched.
	Stage string `json:"stage,omitempty"`
	// Reason says why it stopped there.
	Reason string `json:"reason,omitempty"`
	// Values are the parts of the expressions that were looked at, with their values.
	Values  []PartValue      `json:"values,omitempty"`
	Outputs []map[string]any `json:"outputs,omitempty"`
}

// PartValue is a part of an expression and its value on the message, or why it has none.
type PartValue struct {
	Part  string `json:"part"`
	Value any    `json:"value"`
	Error string `json:"error,omitempty"`
}

// maxParts bounds the parts shown for one expression.
const maxParts = 40

// Explain evaluates a record as Eval would and tells how each rule whose filters match came to its answer.
// state may be nil for a VIN without history; it is read, not changed, so no worker may run on it meanwhile.
// The record's ReceivedAt is the time.
func (s *Set) Explain(rec *message.Record, state *State) Explanation {
	x := Explanation{Topic: rec.Topic, VIN: rec.VIN(), ReceivedAt: rec.Time().Format(timeLayout), Set: s.hash}
	own := NewState(StateOptions{})
	if state != nil {
		own.SetShift(state.Shift())
		if data := state.Export(rec.VIN()); data != nil {
			_ = own.Load(rec.VIN(), data) //nolint:errcheck // just exported
		}
	}
	w := NewEngine(s, own).NewWorker()
	w.sc.begin(rec)
	matched := map[uint16]bool{}
	for _, i := range s.index.match(rec.Topic, nil) {
		matched[i] = true
	}
	for _, r := range s.rules {
		filtered := !matched[r.index]
		if r.def.mode.disabled {
			filtered = !slices.ContainsFunc(r.info.From, func(f string) bool { return message.Match(f, rec.Topic) })
		}
		if filtered {
			x.Others++
			continue
		}
		x.Rules = append(x.Rules, w.explain(r, rec))
	}
	return x
}

func (w *Worker) explain(r *rule, rec *message.Record) RuleExplanation {
	x := RuleExplanation{ID: r.info.ID}
	mode := r.def.mode
	switch share := hashText(w.sc.vin) % wholeFleet; {
	case mode.disabled:
		x.Stage, x.Reason = "mode", "the rule is disabled"
		return x
	case share >= mode.canary:
		x.Stage, x.Reason = "mode", fmt.Sprintf("the vehicle is not among the %s", mode)
		return x
	}
	x.Values = w.parts(r, r.def.when)
	if r.when != nil {
		ok, err := w.sc.test(r.when)
		if err != nil {
			x.Stage, x.Reason = "error", err.Error()
			return x
		}
		if !ok {
			x.Stage, x.Reason = "when", "the condition is false"
			return x
		}
	}
	if !w.explainOperators(r, &x) {
		return x
	}
	x.Matched = true
	if mode.shadow {
		x.Reason = "the mode is shadow: the match is counted, nothing is sent"
		return x
	}
	var values []byte
	if r.usesOper {
		values = encodeValues(w.ops.values)
	}
	for _, t := range r.targets {
		x.Outputs = append(x.Outputs, w.output(r, t, values, rec))
	}
	return x
}

func (w *Worker) output(r *rule, t *target, values []byte, rec *message.Record) map[string]any {
	var out Rendered
	d := Decision{Rule: r.index, Target: uint16(t.index), Values: values} //nolint:gosec // at most maxTargets
	w.sc.again(rec)
	if err := w.sc.render(d, &out); err != nil {
		return map[string]any{"target": t.index, "sink": t.sink.String(), "error": err.Error()}
	}
	v := out.view()
	v["target"], v["sink"] = t.index, t.sink.String()
	return v
}

// explainOperators applies the operators until one holds the message back.
func (w *Worker) explainOperators(r *rule, x *RuleExplanation) bool {
	w.ops = opContext{sc: w.sc, state: w.engine.state, now: w.sc.rec.ReceivedAt}
	w.sc.opers = nil
	for i, op := range r.operators {
		def := r.def.operators[i]
		for _, e := range []*scalar{def.enter, def.exit, def.by, def.lat, def.lon} {
			x.add(w.parts(r, e))
		}
		var before opState
		if st := w.engine.state.peek(w.sc.vin, op.stateKey(), w.sc.rec.ReceivedAt); st != nil {
			before = *st
			before.list = slices.Clone(st.list)
		}
		ok, err := op.pass(&w.ops)
		w.sc.opers = w.ops.values
		if err != nil {
			x.Stage, x.Reason = "error", err.Error()
			return false
		}
		if !ok {
			x.Stage, x.Reason = string(def.kind), op.why(&before, w.sc.rec.ReceivedAt)
			return false
		}
	}
	return true
}

// add appends the values whose part is not there yet.
func (x *RuleExplanation) add(values []PartValue) {
	for _, v := range values {
		if !slices.ContainsFunc(x.Values, func(o PartValue) bool { return o.Part == v.Part }) {
			x.Values = append(x.Values, v)
		}
	}
}

// parts evaluates an expression and everything in it that has a name or a comparison of its own.
func (w *Worker) parts(r *rule, s *scalar) []PartValue {
	if s == nil {
		return nil
	}
	tree, err := parseExpr(s.value)
	if err != nil {
		return nil
	}
	var found []ast.Node
	gatherParts(tree.Node, &found)
	tbl := &symbols{byKey: map[string]uint16{}}
	n := *r.names
	n.symbols = tbl
	d := newDocument("", nil, func(Diagnostic) {}, "a value")
	var out []PartValue
	seen := map[string]bool{}
	for _, node := range found {
		text := node.String()
		if seen[text] || len(out) == maxParts {
			continue
		}
		seen[text] = true
		e := n.compile(d, &scalar{value: text, lines: []string{text}}, wantAny)
		if e == nil {
			continue
		}
		sc := newScope(&Set{cell: w.engine.set.cell, symbols: tbl.list})
		sc.begin(w.sc.rec)
		sc.opers = w.sc.opers
		v, err := sc.run(e)
		p := PartValue{Part: text, Value: jsonView(v)}
		if err != nil {
			p.Error = err.Error()
		}
		out = append(out, p)
	}
	return out
}

// jsonView is a value as encoding/json can write it.
func jsonView(v any) any {
	switch v := v.(type) {
	case time.Time:
		return v.Format(timeLayout)
	case time.Duration:
		return v.String()
	case rawJSON:
		return string(v)
	}
	return v
}

// gatherParts collects the parts worth showing: an operation in front of its operands.
func gatherParts(n ast.Node, out *[]ast.Node) {
	switch n := n.(type) {
	case *ast.BinaryNode:
		*out = append(*out, n)
		gatherParts(n.Left, out)
		gatherParts(n.Right, out)
	case *ast.UnaryNode:
		*out = append(*out, n)
		gatherParts(n.Node, out)
	case *ast.ConditionalNode:
		*out = append(*out, n)
		gatherParts(n.Cond, out)
		gatherParts(n.Exp1, out)
		gatherParts(n.Exp2, out)
	case *ast.BuiltinNode:
		*out = append(*out, n)
		for _, a := range n.Arguments {
			gatherParts(a, out)
		}
	case *ast.IdentifierNode, *ast.MemberNode, *ast.ChainNode, *ast.CallNode:
		*out = append(*out, n)
	case *ast.VariableDeclaratorNode:
		*out = append(*out, n)
		gatherParts(n.Value, out)
	}
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
	told := x.Reason
	for _, v := range x.Values {
		switch {
		case v.Error != "" && v.Error == told: // of the payload as a whole, told already
		case v.Error != "":
			told = v.Error
			fmt.Fprintf(b, "         %s: %s\n", v.Part, v.Error)
		default:
			fmt.Fprintf(b, "         %s = %s\n", v.Part, appendJSON(nil, v.Value))
		}
	}
	for _, o := range x.Outputs {
		fmt.Fprintf(b, "       → %s\n", outputText(o))
	}
}

// outputText is an output for people: where it goes, and what goes there.
func outputText(o map[string]any) string {
	sink, name := o["sink"], o["topic"]
	switch {
	case o["error"] != nil:
		return fmt.Sprintf("%s: %v", sink, o["error"])
	case name == nil:
		rest := maps.Clone(o)
		delete(rest, "sink")
		delete(rest, "target")
		return fmt.Sprintf("%s %s", sink, appendJSON(nil, rest))
	case o["lane"] != nil:
		return fmt.Sprintf("%s %s, lane %s, key %s: %s", sink, name, o["lane"], o["key"], appendJSON(nil, o["value"]))
	}
	return fmt.Sprintf("%s %s, key %s: %s", sink, name, o["key"], appendJSON(nil, o["value"]))
}

// ExplainPaths explains a message by the rules below the paths and writes the result. ok is false when
// the rules do not compile; their findings are written instead.
func ExplainPaths(w io.Writer, paths []string, rec *message.Record, o ToolOptions) (ok bool, err error) {
	ws, err := openPaths(paths)
	if err != nil {
		return false, err
	}
	set, diags := Compile(NewSource(ws.rules), Options{Cell: o.Cell})
	if diags.HasErrors() {
		if o.JSON {
			return false, writeJSON(w, CheckReport{Diagnostics: diags})
		}
		return false, diags.Write(w)
	}
	x := set.Explain(rec, nil)
	if o.JSON {
		return true, writeJSON(w, x)
	}
	return true, x.Write(w)
}
