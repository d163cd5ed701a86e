package expr

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/spelling"
	"cellgate/rules/doc"
)

// Template is a text with holes, for topics and keys. A hole is vin, cell or class, or a payload value that is checked
// against a list, so that payloads cannot create arbitrary topics or keys.
type Template struct {
	Static string // the text of a template without holes
	Parts  []templatePart
	Topic  bool // Kafka topic: the slashes of a class with several levels become dots
}

type templatePart struct {
	Text  string // before the hole
	kind  symbolKind
	expr  *Expression // for a listed value
	list  *List       // allowed values; nil: any
	inner string      // the hole as written
	// offset is where the hole's content starts in the template, in characters.
	offset int
}

// MaxTemplate bounds a template, in bytes.
const MaxTemplate = 1024

// Template compiles a template. It reports errors and returns nil for them.
func (n *Names) Template(d *doc.Document, s doc.Scalar) *Template {
	if len(s.Value) > MaxTemplate || s.Value == "" {
		d.Fail(s.Line, s.Col, doc.CodeBadTemplate, "", "a template has from 1 to %d bytes", MaxTemplate)
		return nil
	}
	t := &Template{}
	text := ""
	for rest, offset := s.Value, 0; ; {
		before, hole, found := strings.Cut(rest, "${")
		if plainName(d, s, before, offset) {
			return nil
		}
		text += before
		if !found {
			break
		}
		offset += utf8.RuneCountInString(before) + 2
		inner, after, closed := strings.Cut(hole, "}")
		if !closed {
			line, col := s.At(offset - 2)
			d.Fail(line, col, doc.CodeBadTemplate, "write ${vin}", "${ without }")
			return nil
		}
		part, ok := n.hole(d, s, inner, offset)
		if !ok {
			return nil
		}
		part.Text, part.offset, text = text, offset, ""
		t.Parts = append(t.Parts, part)
		offset += utf8.RuneCountInString(inner) + 1
		rest = after
	}
	if len(t.Parts) == 0 {
		t.Static = text
		return t
	}
	t.Parts = append(t.Parts, templatePart{Text: text})
	return t
}

func (n *Names) hole(d *doc.Document, s doc.Scalar, inner string, offset int) (templatePart, bool) {
	part := templatePart{inner: strings.TrimSpace(inner)}
	line, col := s.At(offset)
	switch part.inner {
	case "vin", "cell", "class":
		part.kind = baseNames[part.inner]
		if n.Timed && part.kind == symClass {
			d.Fail(line, col, doc.CodeNoMessage, "write ${vin} or ${cell}", "at the end of a period there is no message, and no class")
			return part, false
		}
		return part, true
	}
	value, list, ok := strings.Cut(part.inner, " in ")
	list = strings.TrimSpace(list)
	switch {
	case ok && doc.ValidName(list) && n.Lists[list] == nil:
		d.Fail(line, col, doc.CodeTemplateName, missingList(list, n.Lists), "%q: there is no list %q at the top of the file", "${"+inner+"}", list)
		return part, false
	case doc.ValidName(part.inner):
		d.Fail(line, col, doc.CodeTemplateName, meantHole(part.inner), "%q has no meaning in a topic or key", "${"+inner+"}")
		return part, false
	case !ok || n.Lists[list] == nil:
		d.Fail(line, col, doc.CodeTemplateName, "write ${vin}, ${cell}, ${class}, or ${payload.kind in kinds} with a list kinds at the top of the file",
			"%q: a topic or key may not depend on what a payload says, unless the values are listed", "${"+inner+"}")
		return part, false
	}
	expr := doc.Scalar{Value: value, Line: line, Col: col, Lines: s.Lines}
	n.use(list)
	part.list = n.Lists[list]
	part.expr = n.Compile(d, &expr, WantAny)
	return part, part.expr != nil
}

var holes = []string{"vin", "cell", "class"}

func meantHole(name string) string {
	if near := spelling.Nearest(name, holes); near != "" {
		return fmt.Sprintf("did you mean ${%s}?", near)
	}
	return "write ${vin}, ${cell} or ${class}; a field of the message only from a list: ${payload.kind in kinds}"
}

func missingList(name string, lists map[string]*List) string {
	if near := spelling.Nearest(name, slices.Sorted(maps.Keys(lists))); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return fmt.Sprintf("write lists: {%s: [door, trunk]} there", name)
}

// notAHole matches {vin}, $vin and the like, which would be literal text: ${vin} is probably meant.
var notAHole = regexp.MustCompile(`(?:^|[^$])(\{(vin|cell|class)\})|(\$(vin|cell|class)\b)`)

// plainName reports a name in literal text that is probably meant as a hole.
func plainName(d *doc.Document, s doc.Scalar, text string, offset int) bool {
	m := notAHole.FindStringSubmatchIndex(text)
	if m == nil {
		return false
	}
	from, to, name := m[2], m[3], m[4]
	if from < 0 {
		from, to, name = m[6], m[7], m[8]
	}
	line, col := s.At(offset + utf8.RuneCountInString(text[:from]))
	meant := text[name : name+len(strings.Trim(text[from:to], "${}"))]
	d.Fail(line, col, doc.CodeBadTemplate, fmt.Sprintf("write ${%s}", meant), "%q is used as it is", text[from:to])
	return true
}

// render appends the template's text for the record of sc.
func (t *Template) render(sc *Scope, dst []byte) ([]byte, error) {
	if t.Parts == nil {
		return append(dst, t.Static...), nil
	}
	for i := range t.Parts {
		p := &t.Parts[i]
		var err error
		if dst, err = p.fill(sc, append(dst, p.Text...), t.Topic); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// fill appends the text of the hole.
func (p *templatePart) fill(sc *Scope, dst []byte, topic bool) ([]byte, error) {
	from := len(dst)
	switch {
	case p.kind == symVIN:
		dst = append(dst, sc.VIN...)
	case p.kind == symCell:
		dst = append(dst, sc.cell...)
	case p.kind == symClass:
		if p.list != nil && !p.list.has(sc.class) {
			return dst, fmt.Errorf("%w: ${class}: the class is not in the list %s", ErrRender, classList)
		}
		dst = append(dst, sc.class...)
		for i := from; topic && i < len(dst); i++ {
			if dst[i] == '/' {
				dst[i] = '.'
			}
		}
	case p.expr != nil:
		v, err := sc.Run(p.expr)
		if err != nil {
			return dst, err
		}
		dst = AppendText(dst, v)
		if !p.list.has(string(dst[from:])) || v == nil {
			return dst, fmt.Errorf("${%s}: the value is not in the list", p.inner)
		}
	}
	return dst, nil
}

// Text returns the result of render as a string. It does not allocate for a template without holes.
func (t *Template) Text(sc *Scope) (string, error) {
	if t.Parts == nil {
		return t.Static, nil
	}
	b, err := t.render(sc, sc.scratch[:0])
	sc.scratch = b[:0]
	return string(b), err
}

// Sample returns the template's text with "x" in each hole.
func (t *Template) Sample() string {
	text := t.Static
	for i := range t.Parts {
		if text += t.Parts[i].Text; i < len(t.Parts)-1 {
			text += "x"
		}
	}
	return text
}

// PerVehicle warns of a Kafka topic for each vehicle.
func (n *Names) PerVehicle(d *doc.Document, s doc.Scalar, t *Template) {
	for i := range t.Parts {
		if t.Parts[i].kind == symVIN {
			line, col := s.At(t.Parts[i].offset)
			d.Warn(line, col, doc.CodeTopicPerVIN, "remove it: the VIN is the key and a header of every record", "this makes a Kafka topic for each vehicle")
		}
	}
}

// classList is the name of the list of classes that may be part of topics.
const classList = "classes"

// BoundClasses restricts ${class} in a Kafka topic to the file's list of classes: vehicles choose their class and could
// otherwise create arbitrary topics. stored means that the source was in force before this was required; it stays
// valid.
func (n *Names) BoundClasses(d *doc.Document, s doc.Scalar, t *Template, stored bool) {
	for i := range t.Parts {
		p := &t.Parts[i]
		if p.kind != symClass {
			continue
		}
		n.use(classList)
		if p.list = n.Lists[classList]; p.list != nil || stored {
			continue
		}
		line, col := s.At(p.offset)
		d.Fail(line, col, doc.CodeOpenClass, fmt.Sprintf("write lists: {%s: [telemetry, alarm]} there; messages of other classes go to on_error", classList),
			"a vehicle chooses its class and could create any topic: ${class} in a topic needs a list %q at the top of the file", classList)
	}
}

// Code identifies the text that a template gives.
func (t *Template) Code() string {
	if t == nil {
		return ""
	}
	s := t.Static
	for _, p := range t.Parts {
		s += fmt.Sprint(p.Text, p.kind, p.expr.Digest())
		if p.list != nil {
			s += fmt.Sprint(message.Hash(p.list.node().String()))
		}
	}
	return s
}
