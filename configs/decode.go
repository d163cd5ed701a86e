package configs

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// decoder reads a YAML tree into Go values and collects every problem. It records the place of each key, so that later
// checks can name it. go-yaml's own strict decoding is not used: it stops at the first error, names no key path and
// does not keep the places of keys.
type decoder struct {
	file     string
	env      func(string) (string, bool)
	anchors  map[string]ast.Node
	places   map[string]place
	problems Problems
}

type place struct{ line, col int }

// textSetter is a type that parses itself from a scalar; hint describes the expected form.
type textSetter interface {
	setText(text string) error
	hint() string
}

// defaulter sets the defaults of a new value before it is decoded.
type defaulter interface{ setDefaults() }

// field is one key of a struct.
type field struct {
	name  string
	index int
	tag   reflect.StructTag
}

func fieldsOf(t reflect.Type) []field {
	fields := make([]field, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		if name := f.Tag.Get("yaml"); name != "" && name != "-" {
			fields = append(fields, field{name: name, index: i, tag: f.Tag})
		}
	}
	return fields
}

func (d *decoder) add(n ast.Node, path, why, fix string) {
	p := placeOf(n)
	d.problems = append(d.problems, Problem{File: d.file, Line: p.line, Col: p.col, Path: path, Why: why, Fix: fix})
}

func placeOf(n ast.Node) place {
	if n == nil || n.GetToken() == nil {
		return place{1, 1}
	}
	return placeOfToken(n.GetToken())
}

func placeOfToken(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{1, 1}
	}
	return place{t.Position.Line, t.Position.Column}
}

// decode reads n into v, whose key is path. An absent value (null) leaves the default.
func (d *decoder) decode(n ast.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if _, secret := v.Interface().(Secret); secret && !d.plain(n) {
		d.add(n, path, "is not a plain value to YAML", "quote the secret: 'it''s', with each ' doubled")
		return
	}
	n = d.resolve(n, path)
	if n == nil || n.Type() == ast.NullType {
		return
	}
	if _, ok := d.places[path]; !ok {
		d.places[path] = placeOf(n)
	}
	if _, ok := v.Addr().Interface().(textSetter); ok {
		d.scalar(n, v, path, tag)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(fresh(v.Type().Elem()).Addr())
		}
		d.decode(n, v.Elem(), path, tag)
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Slice:
		d.list(n, v, path, tag)
	case reflect.Map:
		d.mapping(n, v, path, tag)
	default:
		d.scalar(n, v, path, tag)
	}
}

// plain reports whether n is a literal value. An unquoted value that begins with *, & or ! is an alias, an anchor or a
// tag; messages about these repeat a name, which may be part of a secret.
func (d *decoder) plain(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.AliasNode:
		return n.Value != nil && d.anchors[n.Value.GetToken().Value] != nil
	case *ast.AnchorNode:
		return n.Value != nil && n.Value.Type() != ast.NullType && d.plain(n.Value)
	case *ast.TagNode:
		return false
	}
	return true
}

// resolve follows anchors and aliases. An alias inside its own anchor is undefined there, so there are no cycles.
func (d *decoder) resolve(n ast.Node, path string) ast.Node {
	switch n := n.(type) {
	case *ast.AnchorNode:
		value := d.resolve(n.Value, path)
		if n.Name != nil {
			d.anchors[n.Name.GetToken().Value] = value
		}
		return value
	case *ast.AliasNode:
		name := ""
		if n.Value != nil {
			name = n.Value.GetToken().Value
		}
		value, ok := d.anchors[name]
		if !ok {
			d.add(n, path, fmt.Sprintf("unknown anchor *%s", name), "define it above with &"+name)
		}
		return value
	case *ast.TagNode:
		d.add(n, path, "YAML tags are not supported", "remove "+n.GetToken().Value)
		return nil
	}
	return n
}

// fresh returns a new addressable value of t with its defaults.
func fresh(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if x, ok := p.Interface().(defaulter); ok {
		x.setDefaults()
	}
	return p.Elem()
}

// entries returns the pairs of a mapping. If n is not a mapping it reports a problem and returns false.
func (d *decoder) entries(n ast.Node, path string) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	d.add(n, path, "is "+describe(n)+", but a mapping of keys to values is expected", "write `key: value` pairs below it")
	return nil, false
}

func (d *decoder) structure(n ast.Node, v reflect.Value, path string) {
	pairs, ok := d.entries(n, path)
	if !ok {
		return
	}
	fields := fieldsOf(v.Type())
	for _, pair := range pairs {
		name, ok := d.key(pair, path)
		if !ok {
			continue
		}
		at := join(path, name)
		f, known := find(fields, name)
		if _, empty := pair.Value.(*ast.NullNode); !known && empty && holdsSecret(v.Type()) {
			d.add(pair.Key, path, "has a word without a value, which may be part of a secret", "quote the secret, or remove the word")
			continue
		}
		if !known {
			d.add(pair.Key, at, "unknown key", suggest(name, names(fields)))
			continue
		}
		d.places[at] = placeOf(pair.Key)
		d.decode(pair.Value, v.Field(f.index), at, f.tag)
	}
}

// key returns the text of a pair's key.
func (d *decoder) key(pair *ast.MappingValueNode, path string) (string, bool) {
	if _, merge := pair.Key.(*ast.MergeKeyNode); merge {
		d.add(pair.Key, path, "merge keys (<<) are not supported", "write the keys out, or alias a whole value")
		return "", false
	}
	name, ok := scalarText(pair.Key)
	if !ok || name == "" {
		d.add(pair.Key, path, "a key must be a plain word", "write `key: value`")
	}
	return name, ok && name != ""
}

func (d *decoder) list(n ast.Node, v reflect.Value, path string, tag reflect.StructTag) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok && tag.Get("single") == "yes" { // one element may stand for the list
		e := fresh(v.Type().Elem())
		d.decode(n, e, path, tag)
		v.Set(reflect.Append(reflect.MakeSlice(v.Type(), 0, 1), e))
		return
	}
	if !ok {
		d.add(n, path, "is "+describe(n)+", but a list is expected", "write [a, b], or one `- item` per line")
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(seq.Values))
	for i, item := range seq.Values {
		e := fresh(v.Type().Elem())
		d.decode(item, e, path+"["+strconv.Itoa(i)+"]", tag)
		out = reflect.Append(out, e)
	}
	v.Set(out)
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string, tag reflect.StructTag) {
	pairs, ok := d.entries(n, path)
	if !ok {
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(pairs))
	for _, pair := range pairs {
		name, ok := d.key(pair, path)
		if !ok {
			continue
		}
		e := fresh(v.Type().Elem())
		d.places[join(path, name)] = placeOf(pair.Key)
		d.decode(pair.Value, e, join(path, name), tag)
		out.SetMapIndex(reflect.ValueOf(name), e)
	}
	v.Set(out)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func find(fields []field, name string) (field, bool) {
	for _, f := range fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

func holdsSecret(t reflect.Type) bool {
	for i := range t.NumField() {
		if t.Field(i).Type == reflect.TypeFor[Secret]() {
			return true
		}
	}
	return false
}

func names(fields []field) []string {
	all := make([]string, len(fields))
	for i, f := range fields {
		all[i] = f.name
	}
	return all
}

func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// scalarText returns a scalar as written in the file.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimSuffix(n.Value.Value, "\n"), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.MappingKeyNode:
		return scalarText(n.Value)
	}
	return "", false
}
