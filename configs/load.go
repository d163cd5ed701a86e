package configs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"cellgate/broker/shared/spelling"
)

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// Load reads, completes and validates the file at path. The error contains all problems (see Problems).
func Load(path string) (*Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if !info.Mode().IsRegular() && !info.IsDir() { // a named pipe without a writer would block the program indefinitely
		return nil, Problems{{File: path, Why: "not a regular file", Fix: "write the configuration to a file: it is read again at every reload"}}
	}
	if info.Size() > maxFileBytes {
		return nil, Problems{{File: path, Why: "longer than 1 MiB", Fix: "name a configuration file"}}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse is like Load for data in memory. name is the path for messages and for relative paths.
func Parse(name string, data []byte) (*Config, error) {
	return parseEnv(name, data, os.LookupEnv)
}

// parseEnv is Parse with the given environment.
func parseEnv(name string, data []byte, env func(string) (string, bool)) (*Config, error) {
	sum := sha256.Sum256(data)
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // some editors start files with a byte order mark
	body, err := parseYAML(name, data)
	if (err != nil || body != nil) && foreign(data) {
		return nil, notConfiguration(name, body, err)
	}
	if err != nil {
		return nil, err
	}
	d := &decoder{file: name, env: env, anchors: map[string]ast.Node{}, places: map[string]place{}}
	c := Default()
	c.File, c.Hash = name, hex.EncodeToString(sum[:])
	if body != nil {
		d.decode(body, reflect.ValueOf(c).Elem(), "", "")
	}
	base, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("resolving relative paths: %w", err)
	}
	c.derive(base)
	ck := &checker{cfg: c, d: d}
	ck.all()
	if err := d.problems.sorted(); err != nil {
		return nil, err
	}
	return c, nil
}

// parseYAML returns the body of the single document in data, nil if it is empty.
func parseYAML(name string, data []byte) (body ast.Node, err error) {
	if len(data) > maxFileBytes {
		return nil, Problems{{File: name, Why: "longer than 1 MiB", Fix: "name a configuration file"}}
	}
	if line := spelling.TooDeep(strings.Split(string(data), "\n")); line > 0 {
		return nil, Problems{{File: name, Line: line, Col: 1, Why: fmt.Sprintf("nested deeper than %d", spelling.MaxDepth), Fix: "name a configuration file"}}
	}
	defer func() {
		if r := recover(); r != nil { // a panic of the third-party parser is an error of the file
			err = Problems{{File: name, Line: 1, Col: 1, Why: "not readable as YAML", Fix: "check it with a YAML linter"}}
		}
	}()
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, syntaxProblem(name, data, err)
	}
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if body != nil {
			p := placeOf(doc.Body)
			return nil, Problems{{
				File: name, Line: p.line, Col: p.col,
				Why: "a second YAML document", Fix: "keep one document per file: remove the '---' and what follows",
			}}
		}
		body = doc.Body
	}
	if _, comment := body.(*ast.CommentGroupNode); comment {
		return nil, nil
	}
	return body, nil
}

func syntaxProblem(name string, data []byte, err error) error {
	p := Problem{File: name, Line: 1, Col: 1, Why: "not YAML: " + err.Error(), Fix: "check indentation, quotes and brackets there"}
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		at := placeOfToken(syntax.GetToken())
		p.Line, p.Col = at.line, at.col
		p.Why = "not YAML: " + quoted.ReplaceAllString(syntax.GetMessage(), "")
	}
	if f, ok := spelling.Layout(strings.Split(string(data), "\n"), p.Line); ok {
		p.Line, p.Col, p.Why, p.Fix = f.Line, f.Column, "not YAML: "+f.Why, f.Fix
	}
	if first := firstOfTwo.FindStringSubmatch(p.Why); first != nil {
		p.Why, p.Fix = "the same key as at "+first[1], "remove one of the two"
	}
	return Problems{p}
}

// quoted matches what the parser repeats of the file, which may be a secret.
var quoted = regexp.MustCompile(`:? *".*"`)

// firstOfTwo matches the place of the first of two equal keys in the parser's message.
var firstOfTwo = regexp.MustCompile(`already defined at \[(\d+:\d+)\]`)

// resolvePaths makes every relative Path in c absolute.
func resolvePaths(c *Config, base string) {
	walk(reflect.ValueOf(c).Elem(), func(v reflect.Value) {
		p, ok := v.Addr().Interface().(*Path)
		if ok && *p != "" && base != "" && !filepath.IsAbs(string(*p)) {
			*p = Path(filepath.Join(base, string(*p)))
		}
	})
}

// walk calls fn for every addressable scalar below v.
func walk(v reflect.Value, fn func(reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), fn)
		}
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			walk(v.Field(f.index), fn)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), fn)
		}
	case reflect.Map: // values are not addressable; no map contains a path
	default:
		fn(v)
	}
}
