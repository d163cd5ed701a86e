package configs

import (
	"bytes"
	"errors"
	"reflect"
	"regexp"
	"slices"

	"github.com/goccy/go-yaml/ast"
)

var (
	// keyOfLine is a key at the beginning of a line, keyOfFlow one inside braces.
	keyOfLine = regexp.MustCompile(`(?m)^(?:&\w+[ \t]+)?["']?([A-Za-z_]+)["']?[ \t]*:(?:\s|$)`)
	keyOfFlow = regexp.MustCompile(`[{,]\s*["']?([A-Za-z_]+)["']?\s*:`)
)

// foreign reports whether data cannot be meant as a configuration: no key of one, and none that is nearly
// one, stands at its top. Someone has named another file then, perhaps one with secrets in it, so nothing
// of its contents may be shown.
func foreign(data []byte) bool {
	known := names(fieldsOf(reflect.TypeFor[Config]()))
	pattern, near := keyOfLine, true
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		pattern, near = keyOfFlow, false
	}
	for _, m := range pattern.FindAllSubmatch(data, -1) {
		if key := string(m[1]); slices.Contains(known, key) || near && nearest(key, known) != "" {
			return false
		}
	}
	return true
}

// notConfiguration is the one finding in a foreign file: where reading it ended, if it did.
func notConfiguration(name string, body ast.Node, err error) error {
	at := placeOf(body)
	var found Problems
	if errors.As(err, &found) && len(found) > 0 && found[0].Line > 0 {
		at = place{found[0].Line, found[0].Col}
	}
	return Problems{{
		File: name, Line: at.line, Col: at.col,
		Why: "not a configuration: keys such as cell, listeners and kafka are wanted, and none of them is here",
		Fix: "name the gateway's YAML file; configs/cell.yaml is a sample with every key",
	}}
}
