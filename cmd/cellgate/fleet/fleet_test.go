package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cellgate/broker/shared/remote"
	"cellgate/test/check"
	"cellgate/test/options"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run starts a fleet and stops it when done returns true.
func run(t *testing.T, o Options, done func() bool) Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), check.Patience)
	defer cancel()
	go func() {
		for !done() && remote.Pause(ctx, 2*time.Millisecond) {
		}
		cancel()
	}()
	o.ConnectRate = 1e6
	options.Fill(&o, Normal())
	r, err := Run(ctx, o)
	check.OK(t, err)
	if !done() {
		t.Fatalf("gave up: %+v", r)
	}
	return r
}

func TestAcknowledgedMessagesAreInTheLedgerInOrder(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	file := filepath.Join(t.TempDir(), "ledger")
	l, err := OpenLedger(file)
	check.OK(t, err)
	var out bytes.Buffer
	r := run(t, Options{Broker: g.start(), Vehicles: 5, QoS: 1, Rate: 200, Ledger: l, Progress: &out, Every: 5 * time.Millisecond},
		func() bool { return len(g.messages()) >= 100 })
	check.OK(t, l.Close())
	entries := entriesOf(t, file)
	if uint64(len(entries)) != r.Acknowledged || r.Unacknowledged != 0 || r.Published != r.Acknowledged {
		t.Errorf("%d ledger lines for %+v", len(entries), r)
	}
	last := make(map[string]uint64)
	for _, e := range entries {
		if e.Seq != last[e.VIN]+1 {
			t.Fatalf("%+v after sequence %d", e, last[e.VIN])
		}
		last[e.VIN] = e.Seq
	}
	if r.Latency.P50 <= 0 || r.Connect.P50 <= 0 || r.Connects != 5 {
		t.Errorf("report %+v", r)
	}
	if !strings.Contains(out.String(), "5/5 connected") {
		t.Errorf("progress: %s", out.String())
	}
}

func TestUnacknowledgedIsSentAgainAfterReconnect(t *testing.T) {
	t.Parallel()
	for _, saturate := range []bool{false, true} {
		t.Run(fmt.Sprintf("saturate=%t", saturate), func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			g.onPublish = func(nth int, _ published) (byte, bool) { return 0, nth == 7 }
			r := run(t, Options{Broker: g.start(), Vehicles: 1, QoS: 1, Rate: 500, Saturate: saturate, Window: 4, ReconnectMax: time.Millisecond},
				func() bool { return len(g.messages()) >= 60 })
			if r.Reconnects == 0 || r.Resent == 0 {
				t.Fatalf("no reconnect or no resend: %+v", r)
			}
			assertResends(t, g.messages())
		})
	}
}

// assertResends checks that sequences only step back for resends, that these are marked, and that none is
// left out.
func assertResends(t *testing.T, all []published) {
	t.Helper()
	top, dups := 0, 0
	for _, m := range all {
		var p struct {
			Seq int `json:"seq"`
		}
		check.OK(t, json.Unmarshal([]byte(m.payload), &p))
		if m.dup {
			dups++
		}
		if p.Seq > top+1 || (p.Seq <= top && !m.dup) {
			t.Fatalf("sequence %d after %d, duplicate %t", p.Seq, top, m.dup)
		}
		top = max(top, p.Seq)
	}
	if dups == 0 {
		t.Error("no message was marked as a duplicate")
	}
}

func TestRefusedMessagesAreCountedAndNotLedgered(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.onPublish = func(nth int, _ published) (byte, bool) { return byte(0x87 * (nth & 1)), false }
	r := run(t, Options{Broker: g.start(), Vehicles: 1, QoS: 1, Rate: 500}, func() bool { return len(g.messages()) >= 20 })
	if r.Refused == 0 || r.Refused+r.Acknowledged != r.Published {
		t.Errorf("report %+v", r)
	}
	if r.Reasons["message refused with code 0x87 (not authorized)"] != r.Refused {
		t.Errorf("reasons %v", r.Reasons)
	}
}

func TestCommandsAreAnsweredOnce(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	vin := VIN(0)
	g.command = append(commandFrame(vin, "c1", "unlock"), commandFrame(vin, "c1", "unlock")...)
	r := run(t, Options{Broker: g.start(), Vehicles: 1, QoS: 1}, func() bool { return len(g.messages()) >= 2 })
	var topics []string
	for _, m := range g.messages() {
		topics = append(topics, m.topic)
	}
	want := []string{"v1/" + vin + "/res/c1/accepted", "v1/" + vin + "/res/c1/succeeded"}
	if strings.Join(topics, " ") != strings.Join(want, " ") || r.Commands != 1 || r.Acknowledged != 0 {
		t.Errorf("topics %v, report %+v", topics, r)
	}
}

func TestRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	home, old := newGateway(t), newGateway(t)
	addr := home.start()
	old.connack = func(string) []byte { return refusing(0x9d, addr) }
	r := run(t, Options{Broker: old.start(), Vehicles: 3, QoS: 1, Rate: 100, ReconnectMax: time.Millisecond},
		func() bool { return len(home.messages()) >= 9 })
	if r.ConnectRefused != 3 || r.Reasons["refused with code 0x9d (server moved)"] != 3 {
		t.Errorf("report %+v", r)
	}
}

func TestAlarmsCarryTheSameSequence(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	run(t, Options{Broker: g.start(), Vehicles: 1, QoS: 1, Rate: 200, AlarmEvery: 20 * time.Millisecond}, func() bool { return len(g.messages()) >= 60 })
	seqs, alarms := make(map[int]bool), 0
	for _, m := range g.messages() {
		var p struct {
			Seq  int    `json:"seq"`
			Code string `json:"code"`
		}
		if err := json.Unmarshal([]byte(m.payload), &p); err != nil || seqs[p.Seq] {
			t.Fatalf("%+v: %v", m, err)
		}
		seqs[p.Seq] = true
		if strings.HasSuffix(m.topic, "/up/alarm") != (p.Code != "") {
			t.Errorf("%+v", m)
		}
		if p.Code != "" {
			alarms++
		}
	}
	if alarms == 0 {
		t.Error("no alarm")
	}
}

func TestLedgerCutsATornLineAndContinues(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ledger")
	for i := range 2 {
		l, err := OpenLedger(file)
		check.OK(t, err)
		if want := uint64(i * 41); l.Last("V") != want { //nolint:gosec // positive
			t.Errorf("last %d, want %d", l.Last("V"), want)
		}
		l.Append([]Entry{{"V", uint64(40*i) + 41}}) //nolint:gosec // positive
		check.OK(t, l.Close())
		tear(t, file)
	}
	if entries := entriesOf(t, file); len(entries) != 2 || entries[1].Seq != 81 {
		t.Errorf("%+v", entries)
	}
	if l, err := OpenLedger(write(t, t.TempDir(), "other", "V one\n")); err == nil {
		t.Errorf("a line that is no VIN and sequence was taken: %+v", l.last)
	}
}

func entriesOf(t *testing.T, ledger string) (all []Entry) {
	t.Helper()
	_, err := EachEntry(ledger, func(e Entry) { all = append(all, e) })
	check.OK(t, err)
	return all
}

func TestTokensFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// {"sub":"LTEST000000000001"}
	jwt := "e30.eyJzdWIiOiJMVEVTVDAwMDAwMDAwMDAwMSJ9.c2ln"
	file := write(t, dir, "tokens.txt", "# comment\n\n"+jwt+"\nLTEST000000000002 abc\n")
	set, err := ReadTokens(file)
	if err != nil || strings.Join(set.VINs(), " ") != "LTEST000000000001 LTEST000000000002" {
		t.Fatalf("%+v, %v", set, err)
	}
	if got, _ := set.Token("LTEST000000000001"); got != jwt {
		t.Errorf("token %q", got)
	}
	if _, err := set.Token("nobody"); err == nil {
		t.Error("a token for an unknown vehicle")
	}
	if _, err := ReadTokens(write(t, dir, "bad.txt", "a.b\n")); err == nil || !strings.Contains(err.Error(), "bad.txt:1") {
		t.Errorf("error %v", err)
	}
	tokens := filepath.Join(dir, "tokens")
	write(t, tokens, "LTEST000000000003.jwt", "xyz\n")
	set, err = ReadTokenDir(tokens)
	if err != nil || len(set.VINs()) != 1 {
		t.Fatalf("%+v, %v", set, err)
	}
	if got, _ := set.Token("LTEST000000000003"); got != "xyz" {
		t.Errorf("token %q", got)
	}
}

func TestReportPrints(t *testing.T) {
	t.Parallel()
	s := newStats()
	s.acked.Store(1_234_567)
	s.latency.record(3, 1500*time.Microsecond)
	s.reason("timeout")
	r := s.report(500, 3)
	var b bytes.Buffer
	check.OK(t, r.Print(&b))
	for _, want := range []string{"fleet of 500", "1,234,567", "3 still open", "p50 1.5", "timeout: 1"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
