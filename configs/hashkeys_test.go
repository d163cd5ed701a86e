package configs

import (
	"strings"
	"testing"
)

// TestHashKeys: keys need ids, ascending times and enough length; none is ever printed.
func TestHashKeys(t *testing.T) {
	t.Parallel()
	load := func(keys string) error {
		_, err := parseEnv("cell.yaml", []byte("cell: {id: c1, node: n1}\nrules: {hash_keys: "+keys+"}\n"), noEnv)
		return err
	}
	const key = "0123456789abcdef"
	if err := load("[{id: k1, key: " + key + "}, {id: k2, key: " + key + ", from: 2026-06-01T00:00:00Z}]"); err != nil {
		t.Error(err)
	}
	for keys, want := range map[string]string{
		"[{key: " + key + "}]":                                   "rules.hash_keys[0].id",
		"[{id: a, key: short}]":                                  "rules.hash_keys[0].key",
		"[{id: a, key: " + key + ", from: June}]":                "rules.hash_keys[0].from",
		"[{id: a, key: " + key + "}, {id: b, key: " + key + "}]": "rules.hash_keys[1].from",
		"[{id: a, key: " + key + "}, {id: a, key: " + key + ", from: 2026-06-01T00:00:00Z}]": "rules.hash_keys[1].id",
	} {
		if err := load(keys); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", keys, err)
		}
	}
}
