package expr

import (
	"github.com/valyala/fastjson"

	"cellgate/broker/shared/message"
)

// EncodeGiven returns the stored form of operator values: a JSON object. A time is {"ms": …}; an object is {"is": …},
// to distinguish it from a time.
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
		from := len(dst)
		if dst = AppendJSON(dst, v.Value); dst[from] == '{' {
			object := string(dst[from:])
			dst = append(append(append(dst[:from], `{"is":`...), object...), '}')
		}
	}
	return append(dst, '}')
}

// DecodeGiven is the inverse of EncodeGiven. Times are decoded as times, other values stay JSON.
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
	o.Visit(func(key []byte, item *fastjson.Value) {
		given := Given{Name: string(key)}
		switch {
		case item.Type() == fastjson.TypeObject && item.Exists("ms"):
			given.Value = (&message.Record{ReceivedAt: item.GetInt64("ms")}).Time()
		case item.Type() == fastjson.TypeObject && item.Exists("is"):
			given.Value = RawJSON(appendField(nil, item.Get("is")))
		default:
			given.Value = RawJSON(appendField(nil, item))
		}
		out = append(out, given)
	})
	return out, nil
}
