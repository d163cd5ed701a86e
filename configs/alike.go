package configs

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
)

// Alike are hashes, by section, of what is to be the same at all gateways of a cell: not addresses, files and sizes of one machine, and
// not the secrets.
func (c *Config) Alike() map[string]string {
	alike := *c
	alike.Auth.Audit = Audit{}
	alike.Uplink.Journal = Journal{}
	alike.Limits.MaxConnections = 0
	alike.Rules.Workers = 0
	out := map[string]string{}
	v := reflect.ValueOf(&alike).Elem()
	for _, f := range fieldsOf(v.Type()) {
		switch f.name {
		case "cell", "data_dir", "listeners", "http", "token_api", "log":
			continue
		}
		sum := sha256.New()
		p := printer{w: bufio.NewWriter(sum)}
		p.entry(f.name, v.Field(f.index), 0)
		_ = p.w.Flush() // a hash takes everything
		out[f.name] = hex.EncodeToString(sum.Sum(nil)[:4])
	}
	return out
}
