package configs

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"sort"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/token"
)

// Print writes c as YAML with all defaults filled in and secrets masked. Parse reads the same configuration back,
// except for the secrets.
func Print(w io.Writer, c *Config) error {
	b := bufio.NewWriter(w)
	p := printer{w: b, paths: true}
	p.structure(reflect.ValueOf(c).Elem(), 0)
	if err := b.Flush(); err != nil {
		return fmt.Errorf("printing the configuration: %w", err)
	}
	return nil
}

type printer struct {
	w     *bufio.Writer
	paths bool // also print paths
}

func (p printer) line(indent int, text string) {
	_, _ = p.w.WriteString(strings.Repeat("  ", indent) + text + "\n")
}

func (p printer) structure(v reflect.Value, indent int) {
	for _, f := range fieldsOf(v.Type()) {
		p.entry(f.name, v.Field(f.index), indent)
	}
}

// entry writes one key and its value. A section that is off has no line.
func (p printer) entry(name string, v reflect.Value, indent int) {
	name = quote(name)
	if v.Type() == reflect.TypeFor[Path]() && !p.paths {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			p.entry(name, v.Elem(), indent)
		}
	case reflect.Struct:
		p.line(indent, name+":")
		p.structure(v, indent+1)
	case reflect.Map:
		if v.Len() == 0 {
			p.line(indent, name+": {}")
			return
		}
		p.line(indent, name+":")
		p.pairs(v, indent+1)
	case reflect.Slice:
		p.list(name, v, indent)
	default:
		p.line(indent, name+": "+scalarYAML(v))
	}
}

func (p printer) pairs(v reflect.Value, indent int) {
	keys := v.MapKeys()
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	for _, key := range keys {
		p.entry(key.String(), v.MapIndex(key), indent)
	}
}

func (p printer) list(name string, v reflect.Value, indent int) {
	if v.Len() == 0 || v.Type().Elem().Kind() != reflect.Struct {
		items := make([]string, v.Len())
		for i := range items {
			items[i] = scalarYAML(v.Index(i))
		}
		p.line(indent, name+": ["+strings.Join(items, ", ")+"]")
		return
	}
	p.line(indent, name+":")
	for i := range v.Len() {
		p.line(indent+1, "-")
		p.structure(v.Index(i), indent+2)
	}
}

func scalarYAML(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.String:
		return quote(fmt.Sprint(v.Interface()))
	}
	return fmt.Sprint(v.Interface())
}

// quote returns text as a YAML scalar that decodes to the same text, ${ included.
func quote(text string) string {
	text = strings.ReplaceAll(text, "${", "$${")
	if text == "" || token.IsNeedQuoted(text) || strings.ContainsAny(text, "\"'\\,[]{}\t\r\n#") {
		return strconv.Quote(text)
	}
	return text
}
