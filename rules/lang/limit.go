package lang

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
)

// Limit is the share of errors above which a rule stops sending, as if in shadow.
type Limit struct {
	Share  uint64 // of the messages on the rule's topics, in hundredths of a percent; must not be exceeded
	Window time.Duration
}

// Bounds of a limit's window, which is a whole number of seconds.
const (
	minLimitWindow = 10 * time.Second
	maxLimitWindow = 24 * time.Hour
)

// String returns the limit as written in a rule.
func (l *Limit) String() string {
	return strconv.FormatFloat(float64(l.Share)/100, 'f', -1, 64) + "% per " + l.Window.String()
}

// limitForm is an example of a limit.
const limitForm = "for example limits: {errors: 1% per 5m then shadow}"

func (r *ruleDef) readLimits(n ast.Node) {
	o, ok := r.doc.Object(n, `"limits"`, "errors")
	if !ok {
		return
	}
	if !o.Has("errors") {
		o.Missing("errors", limitForm)
		return
	}
	s, ok := o.Text("errors")
	if !ok {
		return
	}
	words := strings.Fields(s.Value)
	if len(words) != 5 || words[1] != "per" || words[3] != "then" {
		r.doc.Fail(s.Line, s.Col, doc.CodeBadLimit, "write a share of the messages, a time and shadow: 1% per 5m then shadow", "%q is not a limit", s.Value)
		return
	}
	share, shareOK := r.limitShare(&s, words[0])
	window, windowOK := r.limitWindow(&s, words[2])
	if words[4] != "shadow" {
		r.doc.Fail(s.Line, s.Col, doc.CodeBadLimit, "write then shadow: matches are still counted, and nothing is sent", "a rule cannot become %q", words[4])
		return
	}
	if shareOK && windowOK {
		r.Limit = &Limit{Share: share, Window: window}
	}
	if r.Mode.Shadow || r.Mode.Disabled {
		r.doc.Warn(s.Line, s.Col, doc.CodeIdleLimit, "remove the limit, or enable the rule", "the rule is %s and sends nothing, so the limit changes nothing", r.Mode)
	}
}

func (r *ruleDef) limitShare(s *doc.Scalar, text string) (uint64, bool) {
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if !percent || err != nil || !(v >= 0.01 && v <= 99) {
		r.doc.Fail(s.Line, s.Col, doc.CodeBadLimit, "write a share of the messages that is too much: 0.5%, 1%, 20%", "%q is not a share from 0.01%% to 99%%", text)
		return 0, false
	}
	return uint64(v*100 + 0.5), true
}

func (r *ruleDef) limitWindow(s *doc.Scalar, text string) (time.Duration, bool) {
	v, ok := doc.ParseDuration(text)
	if !ok || v < minLimitWindow || v > maxLimitWindow || v%time.Second != 0 {
		r.doc.Fail(s.Line, s.Col, doc.CodeBadLimit, "write the time in which errors are counted: 1m, 5m, 1h", "%q is not a time from 10s to 24h in whole seconds", text)
		return 0, false
	}
	return v, true
}

// versions computes the versions of a file's rules. A version covers the rule and everything in its file except other
// rules.
type versions struct{ rest uint64 }

func newVersions(f *ruleFile, o *doc.Object) *versions {
	v := versions{}
	for _, key := range fileKeys() {
		if n, ok := o.Values[key]; ok && key != "rules" {
			v.rest = v.rest*31 + meaningOf(f.doc, n)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.places)) {
		v.rest = v.rest*31 + f.places[name].Digest()
	}
	for _, name := range slices.Sorted(maps.Keys(f.tables)) {
		v.rest = v.rest*31 + f.tables[name].Digest()
	}
	return &v
}

func (v *versions) of(d *doc.Document, rule ast.Node) string {
	return fmt.Sprintf("%016x", meaningOf(d, rule)*31+v.rest)
}

// meaningOf returns a digest of a YAML node without its comments and layout.
func meaningOf(d *doc.Document, n ast.Node) uint64 {
	v, _ := d.Silent().Any(n, "the file", 0)
	text, _ := json.Marshal(v) //nolint:errchkjson // values from YAML always marshal
	return message.Hash(text)
}
