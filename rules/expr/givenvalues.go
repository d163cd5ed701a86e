package expr

import (
	"github.com/valyala/fastjson"

	"cellgate/broker/shared/message"
)

// EncodeGiven is the stored form of operator values: a JSON object.
func EncodeGiven(values []Given) []byte {
	dst := []byte{'{'}
	for i, v := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, v.Name), ':')
		if t, ok := v.Value.(interface{ UnixMilli() int64 }); ok {
			dst = append(dst, `{"ms":`...)
			dst = append(AppendJSON(dst, int(t.UnixMilli())), '}')
			continue
		}
		dst = AppendJSON(dst, v.Value)
	}
	return append(dst, '}')
}

// DecodeGiven is the inverse; times come back as times.
func DecodeGiven(b []byte) ([]Given, error) {
	if len(b) == 0 {
		return nil, nil
	}
	v, err := fastjson.ParseBytes(b)
	if err != nil {
		return nil, err
	}
	o, err := v.Object()
	if err != nil {
		return nil, err
	}
	var out []Given
	sc := Scope{}
	o.Visit(func(key []byte, item *fastjson.Value) {
		value, verr := sc.native(item)
		if ms := item.GetInt64("ms"); item.Type() == fastjson.TypeObject && item.Exists("ms") {
			value = (&message.Record{ReceivedAt: ms}).Time()
		}
		if verr != nil {
			err = verr
		}
		out = append(out, Given{string(key), value})
	})
	return out, err
}
