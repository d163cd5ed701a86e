package configs

import (
	"maps"
	"testing"

	"cellgate/test/check"
)

// TestAlike: per-machine settings and secrets do not change the hashes; any other setting changes the hash of its
// section only.
func TestAlike(t *testing.T) {
	t.Parallel()
	parse := func(text string) *Config {
		c, err := Parse("/etc/x.yaml", []byte(text))
		check.OK(t, err)
		return c
	}
	same := parse("cell: {id: c, node: a}\ndata_dir: /one\nhttp: {address: '127.0.0.1:1'}\nkafka: {tls: {ca: /one.crt}}\nredis: {password: one}\nlimits: {max_connections: 1}\n").Alike()
	other := parse("cell: {id: c, node: b}\ndata_dir: /two\nhttp: {address: '127.0.0.1:2'}\nkafka: {tls: {ca: /two.crt}}\nredis: {password: two}\nlimits: {max_connections: 2}\n").Alike()
	if !maps.Equal(same, other) || len(same) < 10 {
		t.Errorf("%v and %v", same, other)
	}
	third := parse("cell: {id: c, node: b}\nkafka: {tls: {}}\nredis: {password: two}\nsessions: {max_inflight: 3}\n").Alike()
	for section := range same {
		if (same[section] != third[section]) != (section == "sessions") {
			t.Errorf("section %s", section)
		}
	}
}
