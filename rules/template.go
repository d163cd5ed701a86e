package rules

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cellgate/broker/message"
	"cellgate/configs/spelling"
)

// template is a text with holes, for topics and keys. A hole takes vin, cell or class, or a payload
// value that is checked against a list, so that a payload cannot create topics or keys at will.
type template struct {
	static string // the whole, when there is no hole
	parts  []templatePart
	topic  bool // names a Kafka topic: the slashes of a class of several levels become dots
}

type templatePart struct {
	text  string // in front of the hole
	kind  symbolKind
	expr  *expression // of a listed value
	list  *listDef    // what the value must be one of; nil: anything
	inner string      // the hole as written
	// offset is where the hole's content begins in the template, in characters.
	offset int
}

const maxTemplate = 1024

// template compiles a template; nil when something has been reported.
func (n *names) template(d *document, s scalar) *template {
	if len(s.value) > maxTemplate || s.value == "" {
		d.fail(s.line, s.col, CodeBadTemplate, "", "a template has from 1 to %d bytes", maxTemplate)
		return nil
	}
	t := &template{}
	text := ""
	for rest, offset := s.value, 0; ; {
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
			line, col := s.at(offset - 2)
			d.fail(line, col, CodeBadTemplate, "write ${vin}", "${ without }")
			return nil
		}
		part, ok := n.hole(d, s, inner, offset)
		if !ok {
			return nil
		}
		part.text, part.offset, text = text, offset, ""
		t.parts = append(t.parts, part)
		offset += utf8.RuneCountInString(inner) + 1
		rest = after
	}
	if len(t.parts) == 0 {
		t.static = text
		return t
	}
	t.parts = append(t.parts, templatePart{text: text})
	return t
}

func (n *names) hole(d *document, s scalar, inner string, offset int) (templatePart, bool) {
	part := templatePart{inner: strings.TrimSpace(inner)}
	line, col := s.at(offset)
	switch part.inner {
	case "vin", "cell", "class":
		part.kind = baseNames[part.inner]
		return part, true
	}
	value, list, ok := strings.Cut(part.inner, " in ")
	list = strings.TrimSpace(list)
	switch {
	case ok && validName(list) && n.lists[list] == nil:
		d.fail(line, col, CodeTemplateName, missingList(list, n.lists), "%q: there is no list %q at the top of the file", "${"+inner+"}", list)
		return part, false
	case validName(part.inner):
		d.fail(line, col, CodeTemplateName, meantHole(part.inner), "%q has no meaning in a topic or key", "${"+inner+"}")
		return part, false
	case !ok || n.lists[list] == nil:
		d.fail(line, col, CodeTemplateName, "write ${vin}, ${cell}, ${class}, or ${payload.kind in kinds} with a list kinds at the top of the file",
			"%q: a topic or key may not depend on what a payload says, unless the values are listed", "${"+inner+"}")
		return part, false
	}
	expr := scalar{value: value, line: line, col: col, lines: s.lines}
	part.list = n.lists[list]
	part.expr = n.compile(d, &expr, wantAny)
	return part, part.expr != nil
}

// holes are the names that a template may take.
var holes = []string{"vin", "cell", "class"}

func meantHole(name string) string {
	if near := spelling.Nearest(name, holes); near != "" {
		return fmt.Sprintf("did you mean ${%s}?", near)
	}
	return "write ${vin}, ${cell} or ${class}; a field of the message only from a list: ${payload.kind in kinds}"
}

func missingList(name string, lists map[string]*listDef) string {
	if near := spelling.Nearest(name, slices.Sorted(maps.Keys(lists))); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return fmt.Sprintf("write lists: {%s: [door, trunk]} there", name)
}

// notAHole finds {vin}, $vin and the like, which would be taken as they stand: what is meant is ${vin}.
var notAHole = regexp.MustCompile(`(?:^|[^$])(\{(vin|cell|class)\})|(\$(vin|cell|class)\b)`)

// plainName reports a name in the text between holes that is meant to be one.
func plainName(d *document, s scalar, text string, offset int) bool {
	m := notAHole.FindStringSubmatchIndex(text)
	if m == nil {
		return false
	}
	from, to, name := m[2], m[3], m[4]
	if from < 0 {
		from, to, name = m[6], m[7], m[8]
	}
	line, col := s.at(offset + utf8.RuneCountInString(text[:from]))
	meant := text[name : name+len(strings.Trim(text[from:to], "${}"))]
	d.fail(line, col, CodeBadTemplate, fmt.Sprintf("write ${%s}", meant), "%q is taken as it stands", text[from:to])
	return true
}

// render appends the text that the template gives for the record of sc.
func (t *template) render(sc *scope, dst []byte) ([]byte, error) {
	if t.parts == nil {
		return append(dst, t.static...), nil
	}
	for i := range t.parts {
		p := &t.parts[i]
		dst = append(dst, p.text...)
		switch {
		case p.kind == symVIN:
			dst = append(dst, sc.vin...)
		case p.kind == symCell:
			dst = append(dst, sc.cell...)
		case p.kind == symClass:
			if p.list != nil && !p.list.has(sc.class) {
				return dst, fmt.Errorf("%w: ${class}: the class is not in the list %s", ErrRender, classList)
			}
			from := len(dst)
			dst = append(dst, sc.class...)
			for i := from; t.topic && i < len(dst); i++ {
				if dst[i] == '/' {
					dst[i] = '.'
				}
			}
		case p.expr != nil:
			v, err := sc.run(p.expr)
			if err != nil {
				return dst, err
			}
			from := len(dst)
			dst = appendText(dst, v)
			if !p.list.has(string(dst[from:])) || v == nil {
				return dst, fmt.Errorf("${%s}: the value is not in the list", p.inner)
			}
		}
	}
	return dst, nil
}

// text is render as a string; it does not allocate for a template without holes.
func (t *template) text(sc *scope) (string, error) {
	if t.parts == nil {
		return t.static, nil
	}
	b, err := t.render(sc, sc.scratch[:0])
	sc.scratch = b[:0]
	return string(b), err
}

// classList is the list of a file that says which classes its topics may be made of.
const classList = "classes"

// boundClasses ties ${class} in a Kafka topic to the file's list of classes: a vehicle chooses its class, and would
// otherwise make topics at will. stored: the source ran before this was asked for, and goes on as it is.
func (n *names) boundClasses(d *document, s scalar, t *template, stored bool) {
	for i := range t.parts {
		p := &t.parts[i]
		if p.kind != symClass {
			continue
		}
		if p.list = n.lists[classList]; p.list != nil || stored {
			continue
		}
		line, col := s.at(p.offset)
		d.fail(line, col, CodeOpenClass, fmt.Sprintf("write lists: {%s: [telemetry, alarm]} there; messages of other classes go to on_error", classList),
			"a vehicle chooses its class and could make topics at will: ${class} in a topic needs a list %q at the top of the file", classList)
	}
}

func (t *template) code() string {
	if t == nil {
		return ""
	}
	s := t.static
	for _, p := range t.parts {
		s += fmt.Sprint(p.text, p.kind, p.expr.digest())
		if p.list != nil {
			s += fmt.Sprint(message.Hash(p.list.node().String()))
		}
	}
	return s
}
