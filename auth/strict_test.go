package auth

import (
	"encoding/json"
	"testing"
)

func checkParse(t *testing.T, b []byte) {
	t.Helper()
	got, err := parseObject(b)
	if err != nil {
		return
	}
	var want map[string]any
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatalf("accepted %q, which encoding/json does not: %v", b, err)
	}
	if len(got) != len(want) {
		t.Fatalf("%q: %d members, encoding/json has %d", b, len(got), len(want))
	}
}

func TestParseObject(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{
		`{}`:                                  true,
		` {"a" : [1, {"b": null}], "c": ""} `: true,
		`{"a":{"a":{"a":{"a":{"a":1}}}}}`:     true,
		`{"a":{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}}`: false,
		`{"a":1,"b":2,"a":3}`:                         false,
		`{"a":{"b":1,"b":2}}`:                         false,
		`{"a":[{"b":1,"b":2}]}`:                       false,
		`{"a":1}{}`:                                   false,
		`{"a":1`:                                      false,
		`{"a"}`:                                       false,
		`{1:2}`:                                       false,
		`[]`:                                          false,
		``:                                            false,
		"{\"a\":\"\xff\"}":                            false,
	}
	for in, ok := range tests {
		if _, err := parseObject([]byte(in)); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
		checkParse(t, []byte(in))
	}
}
