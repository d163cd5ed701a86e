package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cellgate/test/check"
)

func auditLines(t *testing.T, b []byte) []AuditEvent {
	t.Helper()
	var out []AuditEvent
	for line := range bytes.Lines(b) {
		var e AuditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, e)
	}
	return out
}

// TestAuditSamplesRefusals checks that many refusals for one reason cost a bounded number of lines and hide no other
// reason, and that each written line has the number of omitted ones.
func TestAuditSamplesRefusals(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l := testAudit(&b)
	now := newClock().Now()
	const flood = 10_000
	for range flood {
		l.refuse(now, "expired", Identity{Subject: testVIN}, Peer{Address: "192.0.2.1:9"})
	}
	l.refuse(now, "revoked", Identity{Subject: otherVIN}, Peer{})
	l.refuse(now.Add(time.Second), "expired", Identity{}, Peer{})
	lines := auditLines(t, b.Bytes())
	if len(lines) != refusalsBurst+2 {
		t.Fatalf("%d lines", len(lines))
	}
	if e := lines[refusalsBurst]; e.Reason != "revoked" || e.Subject != otherVIN {
		t.Errorf("%+v", e)
	}
	if e := lines[len(lines)-1]; e.Suppressed != flood-refusalsBurst || e.Cell != testCell || e.Event != AuditRefuse {
		t.Errorf("%+v", e)
	}
	for i := range 1000 {
		l.refuse(now, strings.Repeat("x", i), Identity{}, Peer{})
	}
	if len(l.refusals.byKey) > maxRefusalReasons {
		t.Errorf("%d samplers", len(l.refusals.byKey))
	}
}

// TestAuditFileThatIsNone: a named pipe without a reader is an error that names it; the first line would wait for the
// reader.
func TestAuditFileThatIsNone(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	check.OK(t, syscall.Mkfifo(pipe, 0o600))
	_, err := NewAudit(AuditOptions{
		Path: pipe, MaxMegabytes: 1, MaxFiles: 1, Cell: testCell, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil),
	})
	if err == nil || !strings.Contains(err.Error(), pipe) || !strings.Contains(err.Error(), "auth.audit.file") {
		t.Error(err)
	}
}

// openAudit makes an audit log with files of one megabyte.
func openAudit(t *testing.T, path string, files int) *Audit {
	t.Helper()
	l, err := NewAudit(AuditOptions{
		Path: path, MaxMegabytes: 1, MaxFiles: files, Cell: testCell, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil),
	})
	check.OK(t, err)
	return l
}

func TestAuditFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	l := openAudit(t, path, 2)
	for range 5000 {
		l.Write(AuditEvent{At: time.Now(), Event: AuditRefuse, Subject: strings.Repeat("v", 400)})
	}
	check.OK(t, l.Close())
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "audit*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("not rotated: %v %v", files, err)
	}
	// The rotated files are compressed and removed in the background; wait for that before the directory is removed.
	check.Eventually(t, "the files of before are compressed, and two are kept", func() bool {
		old, err := filepath.Glob(filepath.Join(filepath.Dir(path), "audit-2*"))
		return err == nil && len(old) == 2 && !slices.ContainsFunc(old, func(f string) bool { return filepath.Ext(f) != ".gz" })
	})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() > 1<<20 {
		t.Fatalf("%v %v", info, err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk is full") }

// TestAuditFailureRefusesNobody checks that a failed write is reported and tokens are issued anyway.
func TestAuditFailureRefusesNobody(t *testing.T) {
	t.Parallel()
	f := open(t, func(c *Config) {
		c.Audit = newAudit(unclosed{failingWriter{}}, unclosed{io.Discard}, AuditOptions{Log: c.Log, Metrics: NewMetrics(nil)})
	})
	for range 3 {
		f.vehicle(t, testVIN)
	}
	if n := strings.Count(f.logs.String(), "audit log cannot be written"); n != 1 {
		t.Errorf("reported %d times", n)
	}
}

// TestAuditSaysWhoWhatWhyAndWhere follows one token through the audit log.
func TestAuditSaysWhoWhatWhyAndWhere(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	f := open(t, func(c *Config) { c.Audit = testAudit(&b) })
	token, id := f.issue(t, IssueRequest{Subject: testVIN, Role: RoleVehicle, Caller: Caller{By: "op", Address: "192.0.2.7:1"}})
	f.AuditRefresh(id, Peer{Address: "192.0.2.8:1"})
	_, err := f.Revoke(Revocation{TokenID: id.TokenID, Reason: "lost"}, Caller{By: "op", Address: "192.0.2.9:1"})
	check.OK(t, err)
	f.refusedFor(t, token, ErrRevoked)
	want := []AuditEvent{
		{Event: AuditIssue, Subject: testVIN, Caller: Caller{By: "op", Address: "192.0.2.7:1"}, TokenID: id.TokenID},
		{Event: AuditRefresh, Subject: testVIN, Caller: Caller{Address: "192.0.2.8:1"}, TokenID: id.TokenID},
		{Event: AuditRevoke, Caller: Caller{By: "op", Address: "192.0.2.9:1"}, Reason: "lost", TokenID: id.TokenID},
		{Event: AuditRefuse, Subject: testVIN, Reason: "revoked", TokenID: id.TokenID},
	}
	got := auditLines(t, b.Bytes())
	for i, w := range want {
		g := got[i]
		if g.Event != w.Event || g.Subject != w.Subject || g.By != w.By || g.Address != w.Address || g.TokenID != w.TokenID ||
			g.Reason != w.Reason || !g.At.Equal(f.clock.Now()) {
			t.Errorf("line %d: %+v, want %+v", i, g, w)
		}
	}
	if strings.Contains(b.String(), token[:40]) || strings.Contains(b.String(), token[len(token)-40:]) {
		t.Error("a token is in the audit log")
	}
}

func TestNilAudit(t *testing.T) {
	t.Parallel()
	var l *Audit
	l.Write(AuditEvent{})
	l.refuse(time.Time{}, "x", Identity{}, Peer{})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestLimitersAreBounded(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := newLimiters(&Config{IssueRate: 1, IssueBurst: 1, Now: c.Now})
	for i := range maxLimiters + 10 {
		l.allow(string(rune(i+1))+"x", 1)
	}
	if len(l.callers.byKey) > maxLimiters || l.callers.order.Len() != len(l.callers.byKey) {
		t.Errorf("%d callers, %d in order", len(l.callers.byKey), l.callers.order.Len())
	}
}

func TestReason(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]string{
		ErrExpired: "expired", bad("x"): "bad-token", errors.New("x"): "other", nil: "",
	} {
		if got := Reason(err); got != want {
			t.Errorf("%v: %q", err, got)
		}
	}
	if !errors.Is(bad("x"), errUnauthorized) || !errors.Is(bad("x"), ErrBadToken) || errors.Is(ErrBadToken, ErrExpired) {
		t.Error("errors.Is")
	}
}

func TestCheckVIN(t *testing.T) {
	t.Parallel()
	for vin, want := range map[string]VINCheck{
		testVIN:              {true, true},
		otherVIN:             {true, true},
		"1M8GDM9A0KP042788":  {true, false},
		"WVWZZZ1JZXW000001":  {true, false}, // European: Z at position 9
		"1M8GDM9AXKP04278":   {},
		"1M8GDM9AXKP0427888": {},
		"1M8GDM9AXKP04278I":  {},
		"OM8GDM9AXKP042788":  {},
		"1m8gdm9axkp042788":  {},
		"1M8GDM9AXKP04278/":  {},
		"":                   {},
	} {
		if got := CheckVIN(vin); got != want {
			t.Errorf("%q: %+v", vin, got)
		}
		if (CheckVIN(vin).Warning() == "") != (want == VINCheck{true, true}) {
			t.Errorf("%q: warning %q", vin, CheckVIN(vin).Warning())
		}
	}
}

// TestOneVehicleCannotRotateEvidenceOut refreshes as fast as a vehicle can. A revocation must stay in the audit log and
// in the file of security events, and another vehicle's refresh must be written.
func TestOneVehicleCannotRotateEvidenceOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openAudit(t, filepath.Join(dir, "audit.log"), 1)
	f := open(t, func(c *Config) { c.Audit = l })
	f.revoke(t, Revocation{Subject: otherVIN, Reason: "stolen"})
	const flood = 20_000
	_, id := f.issue(t, IssueRequest{Subject: testVIN, Role: RoleVehicle})
	for range flood {
		f.AuditRefresh(id, Peer{Address: "192.0.2.8:1"})
	}
	f.AuditRefresh(Identity{Subject: otherVIN, Role: RoleVehicle, Issuer: id.Issuer}, Peer{})
	f.clock.Add(time.Minute)
	f.AuditRefresh(id, Peer{})
	check.OK(t, l.Close())
	read := func(name string) []AuditEvent {
		b := check.Read(t, filepath.Join(dir, name))
		return auditLines(t, b)
	}
	all := read("audit.log")
	if len(all) != 1+1+repeatsBurst+1+1 || all[0].Event != AuditRevoke || all[len(all)-2].Subject != otherVIN {
		t.Errorf("%d lines, %+v", len(all), all)
	}
	if last := all[len(all)-1]; last.Suppressed != flood-repeatsBurst {
		t.Errorf("the line after the flood: %+v", last)
	}
	if kept := read("audit-security.log"); len(kept) != 1 || kept[0].Reason != "stolen" || kept[0].Issuer != id.Issuer {
		t.Errorf("security events: %+v", kept)
	}
}
