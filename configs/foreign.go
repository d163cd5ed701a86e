package configs

import (
	"errors"
	"reflect"

	"github.com/goccy/go-yaml/ast"

	"cellgate/broker/shared/spelling"
)

// foreign reports whether data is not a configuration at all.
func foreign(data []byte) bool {
	return spelling.Foreign(data, names(fieldsOf(reflect.TypeFor[Config]())))
}

// notConfiguration returns the only problem of a foreign file, at the place where parsing failed, if it did.
func notConfiguration(name string, body ast.Node, err error) error {
	at := placeOf(body)
	var found Problems
	if errors.As(err, &found) && len(found) > 0 && found[0].Line > 0 {
		at = place{found[0].Line, found[0].Col}
	}
	return Problems{{
		File: name, Line: at.line, Col: at.col,
		Why: "not a configuration: keys such as cell, listeners and kafka are expected, and it has none of them",
		Fix: "name the gateway's YAML file; configs/cell.yaml is a sample with every key",
	}}
}
