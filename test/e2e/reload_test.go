package e2e

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestReloadTakesChangedCertificatePaths: SIGHUP puts certificates at changed paths in force; if one of them cannot be
// read, it changes nothing and logs why.
func TestReloadTakesChangedCertificatePaths(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{VehicleCA: harness.NewAuthority(t), NoRules: true})
	harness.WriteCertificates(t, filepath.Join(g.Dir, "other"))
	shown := func(addr string) string {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the certificate is what is looked at
		check.OK(t, err)
		defer func() { _ = c.Close() }()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := shown(g.MQTTS)
	edit := func(old, text string) {
		b := check.Read(t, g.Config)
		if !strings.Contains(string(b), old) {
			t.Fatalf("no %q in the configuration", old)
		}
		check.OK(t, os.WriteFile(g.Config, []byte(strings.ReplaceAll(string(b), old, text)), 0o600))
		g.Signal(syscall.SIGHUP)
	}
	edit("cert: tls/server.crt, key: tls/server.key", "cert: other/server.crt, key: other/server.key")
	check.Within(t, check.Patience, "the other certificate", func() error {
		for name, addr := range map[string]string{"vehicles": g.MQTTS, "token_api": g.TokenAPI} {
			if shown(addr) == before {
				return fmt.Errorf("%s shows the old one", name)
			}
		}
		return nil
	})
	after := shown(g.MQTTS)
	edit("client_ca: tls/vehicles-ca.crt", "client_ca: gone/ca.crt")
	check.Within(t, check.Patience, "the refusal in the log", func() error {
		log, err := os.ReadFile(g.Log)
		if err != nil || !strings.Contains(string(log), "gone/ca.crt") {
			return fmt.Errorf("not there: %w", err)
		}
		return nil
	})
	if got := shown(g.MQTTS); got != after {
		t.Errorf("serial %s, %s before the reload that failed", got, after)
	}
}

// TestHangupDuringTheStart: a SIGHUP before the gateway serves does not end it, and causes a reload once it serves; nor
// does one during the stop.
func TestHangupDuringTheStart(t *testing.T) {
	t.Parallel()
	g := harness.PrepareGateway(t, harness.Options{})
	g.Launch()
	p := g.Process
	logged := func(text string) bool {
		log, err := os.ReadFile(p.Log)
		return err == nil && strings.Contains(string(log), text)
	}
	for hangups := 0; !logged(`"reloaded"`); {
		select {
		case <-p.Done():
			t.Fatalf("it ended after %d hangups:\n%s", hangups, p.Tail(20))
		case <-time.After(time.Millisecond):
		}
		if logged("{") { // its first log line: before that Go itself may be starting
			p.Signal(syscall.SIGHUP)
			hangups++
		}
	}
	if !logged(`"serving"`) {
		t.Error("reloaded before it served")
	}
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop(check.Patience) }()
	for {
		select {
		case err := <-stopped:
			if err != nil {
				t.Fatalf("stopped by a hangup: %v", err)
			}
			return
		case <-time.After(time.Millisecond):
			_ = syscall.Kill(p.PID(), syscall.SIGHUP)
		}
	}
}
