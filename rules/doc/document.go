package doc

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"cellgate/broker/shared/spelling"
)

// Document reads one YAML file and reports errors with their positions.
type Document struct {
	File   string
	Text   []byte
	Lines  []string
	report func(Diagnostic)
	Rule   string // subject of the findings
	what   string // kind of file in findings: "a rule file"
	keys   []string
	// foreign means that the file is of another kind. Findings must not show its contents.
	foreign bool
}

// New returns a document for a file. what names the kind of file in findings; keys are the top-level keys it may have.
func New(file string, text []byte, report func(Diagnostic), what string, keys ...string) *Document {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // some editors start files with a byte order mark
	return &Document{
		File: file, Text: text, Lines: strings.Split(string(text), "\n"), report: report, Rule: "file",
		what: what, keys: keys, foreign: spelling.Foreign(text, keys),
	}
}

// Root returns the document's mapping. It reports errors and returns false for them.
func (d *Document) Root() (*Object, bool) {
	n := d.Parse()
	if n == nil {
		return nil, false
	}
	if d.foreign {
		line, col := Place(n)
		d.failForeign(line, col, CodeWrongType)
		return nil, false
	}
	return d.Object(n, d.what, d.keys...)
}

// Fail reports an error at a position.
func (d *Document) Fail(line, col int, code Code, suggestion, format string, args ...any) {
	d.tell(Error, line, col, code, suggestion, format, args...)
}

// Warn reports a warning at a position.
func (d *Document) Warn(line, col int, code Code, suggestion, format string, args ...any) {
	d.tell(Warning, line, col, code, suggestion, format, args...)
}

func (d *Document) tell(level Level, line, col int, code Code, suggestion, format string, args ...any) {
	d.report(Diagnostic{
		File: d.File, Line: max(line, 1), Column: max(col, 1), Level: level, Code: code, Rule: cmp.Or(d.Rule, "file"),
		Message: fmt.Sprintf(format, args...), Source: SourceLine(d.Text, line), Suggestion: suggestion,
	})
}

// failForeign reports that the file is of another kind, without showing its contents.
func (d *Document) failForeign(line, col int, code Code) {
	suggestion := "name another file; `cellgate rules schema` prints the structure of a rule file, and configs/rules has samples"
	d.report(Diagnostic{
		File: d.File, Line: max(line, 1), Column: max(col, 1), Level: Error, Code: code, Rule: "file", Suggestion: suggestion,
		Message: fmt.Sprintf("not %s: a mapping with some of %s is expected, and it has none of them", d.what, strings.Join(d.keys, ", ")),
	})
}

// FailAt reports an error at a node.
func (d *Document) FailAt(n ast.Node, code Code, suggestion, format string, args ...any) {
	line, col := Place(n)
	d.Fail(line, col, code, suggestion, format, args...)
}

// Place returns the position of a node's start.
func Place(n ast.Node) (line, col int) {
	switch n := n.(type) {
	case nil:
		return 1, 1
	case *ast.MappingNode:
		if n.GetToken().Type != token.MappingStartType && len(n.Values) > 0 {
			return Place(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return Place(n.Key)
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return 1, 1
	}
	return t.Position.Line, t.Position.Column
}

// Parse returns the root of the only YAML document in the text; nil if there is none or it cannot be read. It reports
// the latter.
func (d *Document) Parse() (root ast.Node) {
	if line := spelling.TooDeep(d.Lines); line > 0 && d.foreign {
		d.failForeign(line, 1, CodeTooLarge)
		return nil
	} else if line > 0 {
		d.Fail(line, 1, CodeTooLarge, "write it flatter", "nested deeper than %d", spelling.MaxDepth)
		return nil
	}
	if bytes.HasPrefix(d.Text, []byte("\xff\xfe")) || bytes.HasPrefix(d.Text, []byte("\xfe\xff")) {
		d.report(Diagnostic{File: d.File, Line: 1, Column: 1, Level: Error, Code: CodeSyntax, Rule: "file", Message: "this file is UTF-16", Suggestion: "save it as UTF-8"})
		return nil
	}
	if line := notUTF8(d.Lines); line > 0 && !d.foreign {
		d.Rule = d.ruleAt(line)
		d.Fail(line, 1, CodeSyntax, "save the file as UTF-8", "this line has characters that are not UTF-8")
		return nil
	}
	defer func() { // the parser must not crash on user input
		if p := recover(); p != nil && d.foreign {
			d.failForeign(1, 1, CodeSyntax)
			root = nil
		} else if p != nil {
			d.Fail(1, 1, CodeSyntax, "write it in a simpler way", "this is not valid YAML")
			root = nil
		}
	}()
	f, err := parser.ParseBytes(d.Text, 0)
	if err != nil {
		d.syntaxError(err)
		return nil
	}
	for _, doc := range f.Docs {
		if doc.Body == nil {
			continue
		}
		if root != nil && !d.foreign {
			d.FailAt(doc.Body, CodeYAMLFeature, "put it in a file of its own", "a second YAML document (after ---)")
			return nil
		}
		root = doc.Body
	}
	return root
}

func (d *Document) syntaxError(err error) {
	var y yaml.Error
	line, col := 1, 1
	if errors.As(err, &y) {
		if t := y.GetToken(); t != nil && t.Position != nil {
			line, col = t.Position.Line, t.Position.Column
		}
	}
	switch {
	case d.foreign:
		d.failForeign(line, col, CodeSyntax)
		return
	case y == nil:
		d.Fail(line, col, CodeSyntax, "check indentation, quotes and brackets", "this is not valid YAML")
		return
	}
	d.Rule = d.ruleAt(line)
	if f, ok := spelling.Layout(d.Lines, line); ok {
		d.Fail(f.Line, f.Column, CodeSyntax, f.Fix, "%s", f.Why)
		return
	}
	text, suggestion := yamlWords(y.GetMessage())
	d.Fail(line, col, CodeSyntax, suggestion, "%s", text)
}

// yamlWords translates a message of the parser for the author of the file, with a suggestion.
func yamlWords(message string) (text, suggestion string) {
	if m := definedTwice.FindStringSubmatch(message); m != nil {
		return fmt.Sprintf("%s appears twice, first in line %s", m[1], m[2]), "remove one of the two, or merge them"
	}
	switch {
	case strings.Contains(message, "reserved character"):
		return "in YAML a value cannot begin with this character", "put the whole expression in single quotes"
	case strings.Contains(message, "escape character"):
		return `a \ in a text between " is followed by a character that it cannot escape`, "put the whole expression in single quotes, within which a backslash means itself"
	case strings.Contains(message, "header option"):
		return "in YAML > and | at the beginning of a value mean that the text begins on the next line", "put the whole expression in single quotes, or below |"
	case strings.Contains(message, "sequence entries are not allowed"):
		return `in YAML "- " begins an element of a list here`, "put the whole expression in single quotes"
	case strings.Contains(message, "mapping value is not allowed"), strings.Contains(message, "value is not allowed"):
		return "in YAML the value ends before the end of this line", `in YAML ": " and " #" have a meaning, and a value that begins with a quote ends with it; ` +
			`put the whole expression in single quotes, or below "|" on a line of its own`
	case strings.Contains(message, "non-map value"):
		return "this is not a key with a value", "a colon and a space follow a key, as in mode: enabled"
	case strings.Contains(message, "must be specified"), strings.Contains(message, "found an invalid key for this map"):
		return "in YAML the value inside {…} or […] ends here, and no comma follows", quoteInFlow + "; or one above is not closed"
	case strings.Contains(message, "sequence end token"), strings.Contains(message, "flow mapping end token"), strings.Contains(message, "could not find flow map content"):
		return "a { or [ is not closed", "close it with } or ]"
	case strings.Contains(message, "could not find '"):
		return "there is a } or ] without its { or [", "remove it, or put the expression in single quotes"
	case strings.Contains(message, "end character of double-quoted"), strings.Contains(message, "end character of single-quoted"):
		return "a quote that is opened here is not closed", "close it; a quote within single quotes is written twice"
	case strings.Contains(message, "unexpected key name"), strings.Contains(message, "unexpected map key"), strings.Contains(message, "implicit line break"),
		strings.Contains(message, "could not find value for mapping key"):
		return "a key with a value is expected here", "a colon and a space follow a key, as in mode: enabled; a text with a colon needs quotes"
	}
	return "this is not valid YAML", "check indentation, quotes and brackets here"
}

// definedTwice matches the parser's message about a duplicate key in a mapping.
var definedTwice = regexp.MustCompile(`^mapping key (".*") already defined at \[(\d+):`)

// quoteInFlow is the suggestion for an expression that a one-line mapping or list has split.
const quoteInFlow = "inside {…} and […] an expression with a comma, bracket or brace in it needs single quotes"

// DecimalPoint is the suggestion for a number that a comma has split.
const DecimalPoint = "a decimal number is written with a point, not with a comma: 15.5"

// ruleAt guesses the rule that a line of an unreadable file belongs to: the last id above it.
func (d *Document) ruleAt(line int) string {
	for i := min(line, len(d.Lines)) - 1; i >= 0; i-- {
		text := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(d.Lines[i]), "-"))
		if id, ok := strings.CutPrefix(text, "id:"); ok && ValidID(strings.TrimSpace(id)) {
			return strings.TrimSpace(id)
		}
	}
	return d.Rule
}

// notUTF8 returns the first line with invalid UTF-8 outside a comment, 0 if there is none.
func notUTF8(lines []string) int {
	for i, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		if text, _, _ := strings.Cut(line, " #"); !utf8.ValidString(text) {
			return i + 1
		}
	}
	return 0
}

// plain returns n. It reports anchors, aliases and tags and returns false for them.
func (d *Document) plain(n ast.Node) (ast.Node, bool) {
	switch n := n.(type) {
	case nil:
		return nil, false
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		d.FailAt(n, CodeYAMLFeature, "write the value out, or use a macro", "anchors and aliases are not supported")
		return nil, false
	case *ast.TagNode:
		d.FailAt(n, CodeYAMLFeature, "remove it; in an expression write not instead of !", "! begins a YAML tag, and tags are not supported")
		return nil, false
	}
	return n, true
}

// Entry is one key of a mapping with its value.
type Entry struct {
	Key   Scalar
	Value ast.Node
}

// Entries returns the entries of a mapping in order.
func (d *Document) Entries(n ast.Node, what string) ([]Entry, bool) {
	n, ok := d.plain(n)
	if !ok {
		return nil, false
	}
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		d.FailAt(n, CodeWrongType, "", "%s must be a mapping (key: value), this is %s", what, kindName(n))
		return nil, false
	}
	out := make([]Entry, 0, len(pairs))
	for _, p := range pairs {
		if p.Key.IsMergeKey() {
			d.FailAt(p.Key, CodeYAMLFeature, "write the values out", "merge keys are not supported")
			return nil, false
		}
		key, ok := d.Scalar(p.Key, "a key")
		if !ok {
			return nil, false
		}
		out = append(out, Entry{Key: key, Value: p.Value})
	}
	return out, true
}

// Object is a mapping with fixed keys.
type Object struct {
	Doc    *Document
	Node   ast.Node
	What   string
	Values map[string]ast.Node
	Keys   map[string]Scalar
	Odd    bool            // there was an unknown key
	Meant  map[string]bool // known keys that an unknown one seems to misspell
	tagged bool            // a value is a YAML tag, which hides the keys after it
}

// Object reads a mapping with fixed keys and reports unknown ones.
func (d *Document) Object(n ast.Node, what string, known ...string) (*Object, bool) {
	switch n.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.SequenceNode:
		d.FailAt(n, CodeWrongType, keysWanted(known), "%s must be a mapping (key: value), this is %s", what, kindName(n))
		return nil, false
	}
	entries, ok := d.Entries(n, what)
	if !ok {
		return nil, false
	}
	o := &Object{Doc: d, Node: n, What: what, Values: map[string]ast.Node{}, Keys: map[string]Scalar{}, Meant: map[string]bool{}}
	for _, e := range entries {
		if !slices.Contains(known, e.Key.Value) {
			d.Fail(e.Key.Line, e.Key.Col, CodeUnknownKey, DidYouMean(e.Key.Value, known),
				"unknown key %q in %s", e.Key.Value, what)
			o.Odd, o.Meant[spelling.Nearest(e.Key.Value, known)] = true, true
			continue
		}
		o.Values[e.Key.Value], o.Keys[e.Key.Value] = e.Value, e.Key
		_, tag := e.Value.(*ast.TagNode)
		o.tagged = o.tagged || tag
	}
	return o, true
}

// keysWanted shows a mapping with the known keys; "" if they are too many.
func keysWanted(known []string) string {
	if len(known) == 0 || len(known) > 6 {
		return ""
	}
	return "write {" + strings.Join(known, ": …, ") + ": …}, with the keys that it needs"
}

// DidYouMean suggests the nearest name, or lists all when there are few.
func DidYouMean(name string, known []string) string {
	if strings.ContainsAny(name, "()[]<>=! ") {
		return quoteInFlow
	}
	if strings.Trim(strings.TrimSuffix(name, "%"), "0123456789") == "" && name != "" {
		return DecimalPoint
	}
	if n := spelling.Nearest(name, known); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	if len(known) > 0 && len(known) <= 30 {
		return "known here: " + strings.Join(known, ", ")
	}
	return ""
}

// Has reports whether a key is present.
func (o *Object) Has(key string) bool { _, ok := o.Values[key]; return ok }

// Missing reports a missing required key, unless an unknown key that seems to misspell it has been reported.
func (o *Object) Missing(key, suggestion string) {
	if o.Meant[key] || o.tagged {
		return
	}
	o.Doc.FailAt(o.Node, CodeMissing, suggestion, "%s needs %q", o.What, key)
}

// Text returns the scalar of a key; ok is false when it is absent or reported.
func (o *Object) Text(key string) (Scalar, bool) {
	n, ok := o.Values[key]
	if !ok {
		return Scalar{}, false
	}
	return o.Doc.Scalar(n, fmt.Sprintf("%q", key))
}

// List returns the elements of a sequence.
func (d *Document) List(n ast.Node, what string) ([]ast.Node, bool) {
	n, ok := d.plain(n)
	if !ok {
		return nil, false
	}
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.FailAt(n, CodeWrongType, `write [a, b], or one element a line, each after "- "`, "%s must be a list, this is %s", what, kindName(n))
		return nil, false
	}
	return s.Values, true
}

func kindName(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "empty"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	default:
		return "text"
	}
}

// CutNumber reports a decimal comma that has split a number: the digits after it become a key without a value.
func (d *Document) CutNumber(e Entry) bool {
	_, empty := e.Value.(*ast.NullNode)
	if !empty || e.Key.Kind != NumberScalar {
		return false
	}
	d.Fail(e.Key.Line, e.Key.Col, CodeBadName, DecimalPoint, "%q is a name without a value", e.Key.Value)
	return true
}

// Silent returns a copy of the document that discards its findings.
func (d *Document) Silent() *Document {
	silent := *d
	silent.report = func(Diagnostic) {}
	return &silent
}

// NoValue warns of a key without a value, which is read as null: {soc, speed} probably means the fields themselves.
func (d *Document) NoValue(e Entry) {
	if _, empty := e.Value.(*ast.NullNode); !empty {
		return
	}
	line, col := Place(e.Value)
	if rest := []rune(SourceLine(d.Text, line)); (line != e.Key.Line || col != e.Key.Col) && col <= len(rest) {
		switch text := strings.ToLower(string(rest[col-1:])); {
		case strings.HasPrefix(text, "null"), strings.HasPrefix(text, "~"):
			return // already reported
		}
	}
	suggestion := quoteInFlow
	if ValidName(e.Key.Value) {
		suggestion = fmt.Sprintf("for the field of that name write %s: payload.%s; where null is meant, write %s: null", e.Key.Value, e.Key.Value, e.Key.Value)
	}
	d.Warn(e.Key.Line, e.Key.Col, CodeNoValue, suggestion, "%q has no value: it will be null", e.Key.Value)
}
