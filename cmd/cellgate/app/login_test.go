package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/harness"
)

// issued creates a self-signed certificate, and its file as an authority.
func issued(t *testing.T, name string, until time.Time) (pair tls.Certificate, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check.OK(t, err)
	of := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: until.Add(-48 * time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	check.OK(t, err)
	ca = filepath.Join(t.TempDir(), "ca.crt")
	check.OK(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, ca
}

// TestRefusedLoginsAreNamed: /readyz, status and the log name a wrong password, certificate or authority in one line.
func TestRefusedLoginsAreNamed(t *testing.T) {
	t.Parallel()
	tomorrow := time.Now().Add(24 * time.Hour)
	good, ca := issued(t, "localhost", tomorrow)
	_, otherCA := issued(t, "localhost", tomorrow)
	old, oldCA := issued(t, "localhost", time.Now().Add(-24*time.Hour))
	serving := func(pair tls.Certificate) kfake.Opt {
		return kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}})
	}
	kafka := func(opts ...kfake.Opt) string { return fakekafka.Cluster(t, opts...).ListenAddrs()[0] }
	logins := kafka(kfake.EnableSASL(), kfake.Superuser("PLAIN", "gate", "secret"), kfake.Superuser("SCRAM-SHA-512", "gate", "secret"))
	encrypted, expired := kafka(serving(good)), kafka(serving(old))
	redis := miniredis.RunT(t)
	redis.RequireAuth("secret")
	redisTLS, err := miniredis.RunTLS(&tls.Config{Certificates: []tls.Certificate{good}})
	check.OK(t, err)
	t.Cleanup(redisTLS.Close)
	for _, c := range []struct{ what, settings, says string }{
		{"plain password", `kafka: {brokers: ["` + logins + `"], timeout: 1s, sasl: {mechanism: plain, user: gate, password: wrong}}`, "the login is refused: the broker has closed the connection: user or password"},
		{"SCRAM password", `kafka: {brokers: ["` + logins + `"], timeout: 1s, sasl: {mechanism: scram-sha-512, user: gate, password: wrong}}`, "the login is refused: the broker has closed the connection: user or password"},
		{"no login", `kafka: {brokers: ["` + logins + `"], timeout: 1s}`, "or a login"},
		{"authority", `kafka: {brokers: ["` + encrypted + `"], timeout: 1s, tls: {ca: "` + otherCA + `", server_name: localhost}}`, "TLS is refused"},
		{"name", `kafka: {brokers: ["` + encrypted + `"], timeout: 1s, tls: {ca: "` + ca + `", server_name: elsewhere}}`, "TLS is refused"},
		{"expired", `kafka: {brokers: ["` + expired + `"], timeout: 1s, tls: {ca: "` + oldCA + `", server_name: localhost}}`, "expired"},
		{"no TLS", `kafka: {brokers: ["` + encrypted + `"], timeout: 1s}`, "their listener may require TLS"},
		{"Redis password", `redis: {addresses: ["` + redis.Addr() + `"], timeout: 1s, password: wrong}`, "login is refused"},
		{"Redis, none", `redis: {addresses: ["` + redis.Addr() + `"], timeout: 1s}`, "login is refused"},
		{"Redis authority", `redis: {addresses: ["` + redisTLS.Addr() + `"], timeout: 1s, tls: {ca: "` + otherCA + `", server_name: localhost}}`, "TLS is refused"},
		{"Redis name", `redis: {addresses: ["` + redisTLS.Addr() + `"], timeout: 1s, tls: {ca: "` + ca + `", server_name: elsewhere}}`, "TLS is refused"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			writeRules(t, dir, "a")
			file := filepath.Join(dir, "cell.yaml")
			harness.WriteConfig(t, file, smallJournal+c.settings)
			store, _, _ := strings.Cut(c.settings, ":")
			a, log := boot(t, file)
			var body []byte
			check.Eventually(t, "the store is degraded", func() bool {
				_, _, text, err := harness.Call(t.Context(), http.MethodGet, a.HTTPURL()+"/readyz", "", nil)
				check.OK(t, err)
				body = text
				return strings.Contains(string(body), `"name":"`+store+`"`)
			})
			for _, s := range a.dependencies() {
				if s.Name == store {
					t.Logf("%s: %s", c.what, s.Reason)
					if !strings.Contains(s.Reason, c.says) || strings.Contains(s.Reason, "\n") {
						t.Errorf("%q does not say %q", s.Reason, c.says)
					}
				}
			}
			if !strings.Contains(log.String(), c.says) {
				t.Errorf("the log does not say %q", c.says)
			}
		})
	}
}
