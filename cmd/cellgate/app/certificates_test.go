package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/shared/remote"
	"cellgate/test/check"
)

// writePair writes a certificate that is valid from and until times relative to now, and its key.
func writePair(t *testing.T, dir string, from, until time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check.OK(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	check.OK(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	check.OK(t, err)
	check.Write(t, filepath.Join(dir, "server.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	check.Write(t, filepath.Join(dir, "server.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// served returns the end of the certificate that a listener shows.
func served(t *testing.T, a *App) time.Time {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // its dates are what the test looks at
	c, err := d.DialContext(t.Context(), "tcp", a.Addrs()["vehicles"].String())
	check.OK(t, err)
	defer c.Close() //nolint:errcheck // only looked at
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].NotAfter
}

// TestCertificateDates: a reload refuses a certificate that has expired or is not valid yet, and keeps the one in force. A
// start works with one, and /readyz names it until a valid one is in force.
func TestCertificateDates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := write(t, dir, "")
	pair := filepath.Join(dir, "tls")
	check.Replace(t, file, "listeners: [", fmt.Sprintf("listeners: [{name: vehicles, address: \"127.0.0.1:0\", tls: {cert: %s/server.crt, key: %s/server.key}}, ", pair, pair))
	const day = 24 * time.Hour
	writePair(t, pair, -day, day)
	a, _ := boot(t, file)
	before := served(t, a)
	for want, dates := range map[string][2]time.Duration{
		"has expired on " + time.Now().Add(-day).UTC().Format("2006"):     {-2 * day, -day},
		"is valid from " + time.Now().Add(day).UTC().Format("2006-01-02"): {day, 2 * day},
	} {
		writePair(t, pair, dates[0], dates[1])
		_, err := a.Reload(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), pair+"/server.crt") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if now := served(t, a); !now.Equal(before) {
		t.Errorf("a certificate until %v is in force, before it was one until %v", now, before)
	}
	if d, told := a.certificates.dependency(); told {
		t.Errorf("the certificate in force is valid: %+v", d)
	}
	halt(t, a)

	writePair(t, pair, -2*day, -day)
	a, log := boot(t, file)
	if !strings.Contains(log.String(), "clients that check certificates cannot connect") {
		t.Error("the start says nothing")
	}
	awaitDegraded(t, a, "certificates")
	_, err := a.Reload(t.Context())
	check.OK(t, err)
	writePair(t, pair, -day, day)
	_, err = a.Reload(t.Context())
	check.OK(t, err)
	var r readiness
	get(t, a, "/readyz", "", &r)
	if slices.ContainsFunc(r.Degraded, func(d remote.Health) bool { return d.Name == "certificates" }) {
		t.Errorf("%+v", r)
	}
}

// TestWhatWaitsForARestart: a reload compares with what runs, however often a key has changed.
func TestWhatWaitsForARestart(t *testing.T) {
	t.Parallel()
	file := write(t, t.TempDir(), "")
	a, _ := boot(t, file)
	token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: "alice", Role: auth.RoleOperator})
	check.OK(t, err)
	was := "gw-1"
	for _, node := range []string{"gw-2", "gw-3", "gw-1"} {
		check.Replace(t, file, "node: "+was, "node: "+node)
		was = node
		for range 2 {
			r, err := a.Reload(t.Context())
			check.OK(t, err)
			var s Status
			get(t, a, "/v1/status", token, &s)
			want := node != "gw-1"
			if slices.Contains(r.Restart, "cell.node") != want || slices.Contains(s.Restart, "cell.node") != want {
				t.Errorf("node %s: a reload says %v, the status %v", node, r.Restart, s.Restart)
			}
		}
	}
}

// TestStatusSaysWhatReadyzSays: one function decides for both.
func TestStatusSaysWhatReadyzSays(t *testing.T) {
	t.Parallel()
	file := write(t, t.TempDir(), "")
	a, _ := boot(t, file)
	token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: "alice", Role: auth.RoleOperator})
	check.OK(t, err)
	a.phase.Store(phaseStopping)
	var r readiness
	code := get(t, a, "/readyz", "", &r)
	var s Status
	get(t, a, "/v1/status", token, &s)
	if code != http.StatusServiceUnavailable || s.Ready != r.Status || s.Ready != "stopping" {
		t.Errorf("readyz %d %+v, status %q", code, r, s.Ready)
	}
	a.phase.Store(phaseServing)
	get(t, a, "/readyz", "", &r)
	get(t, a, "/v1/status", token, &s)
	if s.Ready != r.Status || s.Ready != "degraded" {
		t.Errorf("readyz %+v, status %q", r, s.Ready)
	}
}
