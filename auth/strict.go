package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth bounds the nesting inside a token's header and claims. The cell's own tokens have two levels.
const maxJSONDepth = 6

var (
	errJSON      = errors.New("not a JSON object")
	errDuplicate = errors.New("a member occurs twice")
	errDepth     = errors.New("nested too deeply")
)

// parseObject decodes one JSON object strictly: no duplicate member at any depth (RFC 8725 leaves it to the library
// which one counts), nothing after it, valid UTF-8, exact member names. encoding/json into a struct would match names
// case-insensitively and use the last duplicate.
func parseObject(b []byte) (map[string]any, error) {
	if !utf8.Valid(b) {
		return nil, errJSON
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	tok, err := dec.Token()
	if err != nil || tok != json.Delim('{') {
		return nil, errJSON
	}
	obj, err := parseMembers(dec, 1)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errJSON
	}
	return obj, nil
}

func parseMembers(dec *json.Decoder, depth int) (map[string]any, error) {
	obj := make(map[string]any)
	for dec.More() {
		tok, err := dec.Token()
		name, ok := tok.(string)
		if err != nil || !ok {
			return nil, errJSON
		}
		if _, dup := obj[name]; dup {
			return nil, errDuplicate
		}
		if obj[name], err = parseValue(dec, depth); err != nil {
			return nil, err
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, errJSON
	}
	return obj, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, errJSON
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if depth == maxJSONDepth {
		return nil, errDepth
	}
	if delim == '{' {
		return parseMembers(dec, depth+1)
	}
	list := []any{}
	for dec.More() {
		v, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	if _, err := dec.Token(); err != nil {
		return nil, errJSON
	}
	return list, nil
}

// decodeSegment decodes one segment of a compact JWS. It checks the alphabet first, because the standard decoder skips
// line breaks, and refuses stray bits in the last character. Otherwise one token would have many spellings.
func decodeSegment(s string) ([]byte, bool) {
	for i := range len(s) {
		c := s[i]
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return nil, false
		}
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil
}

// splitToken splits a compact JWS into its three segments without allocating. ok is false for any other number of dots
// or an empty segment.
func splitToken(token string) (header, claims, signature string, ok bool) {
	header, rest, ok1 := strings.Cut(token, ".")
	claims, signature, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || header == "" || claims == "" || signature == "" || strings.Contains(signature, ".") {
		return "", "", "", false
	}
	return header, claims, signature, true
}

// maxNumericDate is the last second of the year 9999.
const maxNumericDate = 253402300799

// numericDate reads a NumericDate (RFC 7519, 2). It truncates fractions, which makes times earlier by less than a
// second; the leeway is much larger.
func numericDate(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	if i, err := n.Int64(); err == nil {
		return i, i > 0 && i <= maxNumericDate
	}
	f, err := n.Float64()
	if err != nil || math.IsNaN(f) || f <= 0 || f > maxNumericDate {
		return 0, false
	}
	return int64(f), true
}
