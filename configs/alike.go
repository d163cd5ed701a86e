package configs

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
)

// Alike returns a hash by section of the settings that must be the same at all gateways of a cell. Addresses, files and
// sizes of one machine and secrets are left out.
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
		_ = p.w.Flush() // writing to a hash cannot fail
		out[f.name] = hex.EncodeToString(sum.Sum(nil)[:4])
	}
	return out
}
