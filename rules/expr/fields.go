package expr

import (
	"fmt"

	"github.com/valyala/fastjson"
)

// maxFields bounds the fields taken from one object.
const maxFields = 512

// maxNames bounds the field names that a scope caches as strings.
const maxNames = 4096

// Field is one field of a hash or stream entry.
type Field struct {
	Name  string
	Value []byte
}

// AppendFields appends the scalar fields of a payload object: texts, numbers, true and false. It leaves out null,
// lists, objects and names that begin with "_", which the gateway uses itself. Of duplicate names the last counts. The
// values are appended to buf.
func (sc *Scope) AppendFields(path []string, buf []byte, fields []Field) ([]byte, []Field, error) {
	v, err := sc.Document()
	if err != nil {
		return buf, fields, err
	}
	if v = fieldBelow(v, path); v == nil || v.Type() != fastjson.TypeObject {
		return buf, fields, fmt.Errorf("%w: %s is not an object", ErrRender, FieldKey("payload", path))
	}
	o, err := v.Object()
	if err != nil {
		return buf, fields, err
	}
	counts, place := sc.lastOnes(o), -1
	o.Visit(func(key []byte, item *fastjson.Value) {
		place++
		name := sc.nameAt(place, key)
		if counts != nil && !counts[place] {
			return
		}
		switch item.Type() {
		case fastjson.TypeString, fastjson.TypeNumber, fastjson.TypeTrue, fastjson.TypeFalse:
		default:
			return
		}
		if len(key) == 0 || key[0] == '_' {
			return
		}
		if len(fields) == maxFields {
			err = fmt.Errorf("%w: more than %d fields", ErrRender, maxFields)
			return
		}
		from := len(buf)
		buf = appendScalar(buf, item)
		fields = append(fields, Field{Name: name, Value: buf[from:len(buf):len(buf)]})
	})
	return buf, fields, err
}

// nameAt returns name for the field at a position of its object. Vehicles write their fields in a fixed order, so
// comparing with the previous name at that position saves most lookups.
func (sc *Scope) nameAt(place int, b []byte) string {
	if place < len(sc.order) && sc.order[place] == string(b) {
		return sc.order[place]
	}
	s := sc.name(b)
	switch {
	case place < len(sc.order):
		sc.order[place] = s
	case place < maxFields:
		for len(sc.order) < place {
			sc.order = append(sc.order, "")
		}
		sc.order = append(sc.order, s)
	}
	return s
}

// name returns a field's name as an interned string.
func (sc *Scope) name(b []byte) string {
	if s, ok := sc.names[string(b)]; ok {
		return s
	}
	if sc.names == nil || len(sc.names) >= maxNames {
		sc.names = make(map[string]string)
	}
	s := string(b)
	if len(s) <= maxBoxedText {
		sc.names[s] = s
	}
	return s
}

// appendScalar appends a payload value as text, numbers as received.
func appendScalar(dst []byte, v *fastjson.Value) []byte {
	if v == nil || v.Type() == fastjson.TypeNull {
		return dst
	}
	if v.Type() == fastjson.TypeString {
		b, _ := v.StringBytes()
		return append(dst, b...)
	}
	return appendField(dst, v)
}
