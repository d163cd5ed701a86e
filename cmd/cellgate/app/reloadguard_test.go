package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cellgate/broker/shared/stable"
	"cellgate/configs"
	"cellgate/test/check"
	"cellgate/test/harness"
)

// A reload refuses a configuration that is still being written, because missing keys would have their defaults; the
// same holds for the files that it names.
func TestAReloadWaitsForWhoeverWrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteCertificates(t, filepath.Join(dir, "tls"))
	file := write(t, dir, "auth: {roles: {lab: {publish: [\"#\"]}}}\n")
	check.Replace(t, file, `"127.0.0.1:0"}]`, `"127.0.0.1:0", tls: {cert: tls/server.crt, key: tls/server.key}}]`)
	whole := check.Read(t, file)
	half := whole[:strings.Index(string(whole), "auth:")]
	cert := filepath.Join(dir, "tls", "server.crt")
	own := check.Read(t, cert)
	other := check.Read(t, filepath.Join(dir, "tls", "ca.crt"))
	for name, writer := range map[string][]func(){ // what happens after each read
		"nobody":                 {nil, nil},
		"the configuration":      {func() { check.Write(t, file, string(whole)) }, nil, nil},
		"a file that it names":   {func() { check.Write(t, cert, string(other)) }, nil, nil},
		"that file, and it once": {func() { check.OK(t, os.Remove(cert)) }, func() { check.Write(t, cert, string(other)) }, nil, nil},
	} {
		check.Write(t, file, string(whole))
		check.Write(t, cert, string(own))
		if name == "the configuration" {
			check.Write(t, file, string(half))
		}
		looks := 0
		next, err := stable.Read(t.Context(), func() (*configs.Config, string, error) {
			c, digest, err := lookConfig(file)
			if looks < len(writer) && writer[looks] != nil {
				writer[looks]()
			}
			looks++
			return c, digest, err
		})
		if err != nil || len(next.Auth.Roles) != 1 || looks != len(writer) {
			t.Errorf("%s: %d looks, want %d, %v", name, looks, len(writer), err)
		}
	}
}
