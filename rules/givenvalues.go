package rules

import (
	"github.com/valyala/fastjson"

	"cellgate/broker/message"
)

// encodeValues is the stored form of operator values: a JSON object.
func encodeValues(values []opValue) []byte {
	dst := []byte{'{'}
	for i, v := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, v.name), ':')
		if t, ok := v.value.(interface{ UnixMilli() int64 }); ok {
			dst = append(dst, `{"ms":`...)
			dst = append(appendJSON(dst, int(t.UnixMilli())), '}')
			continue
		}
		dst = appendJSON(dst, v.value)
	}
	return append(dst, '}')
}

// decodeValues is the inverse; times come back as times.
func decodeValues(b []byte) ([]opValue, error) {
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
	var out []opValue
	sc := scope{}
	o.Visit(func(key []byte, item *fastjson.Value) {
		value, verr := sc.native(item)
		if ms := item.GetInt64("ms"); item.Type() == fastjson.TypeObject && item.Exists("ms") {
			value = (&message.Record{ReceivedAt: ms}).Time()
		}
		if verr != nil {
			err = verr
		}
		out = append(out, opValue{string(key), value})
	})
	return out, err
}
