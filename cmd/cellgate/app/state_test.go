package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cellgate/broker/clock"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
	"cellgate/rules/sink"
	"cellgate/test/check"
)

// journalOne puts a message into the journal as the uplink does.
func journalOne(t *testing.T, a *App, payload string) (seq uint64) {
	t.Helper()
	seq, err := a.journal.Append([]message.Record{{
		Kind: message.KindPublish, QoS: 1, Client: "LTEST000000000001", Topic: "v1/LTEST000000000001/up/event", Payload: []byte(payload),
	}}, nil)
	if err == nil {
		err = a.journal.WaitDurable(t.Context(), seq)
	}
	check.OK(t, err)
	return seq
}

// cutJournal overwrites the journal from a text on, as a disk does that has lost its newest writes.
func cutJournal(t *testing.T, dir, from string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	check.OK(t, err)
	for _, file := range files {
		data := check.Read(t, file)
		at := bytes.Index(data, []byte(from))
		if at < 0 {
			continue
		}
		clear(data[at:])
		check.OK(t, os.WriteFile(file, data, 0o600))
		return
	}
	t.Fatalf("no %q in %s", from, dir)
}

// A lost journal end is detected by its readers' positions. The loss is reported, and no sequence, and so no msg-id, is
// reused.
func TestALostJournalEndIsNoticed(t *testing.T) {
	t.Parallel()
	file := write(t, t.TempDir(), "")
	a, _ := boot(t, file)
	journalOne(t, a, "kept")
	journalOne(t, a, "lost-1")
	last := journalOne(t, a, "lost-2")
	check.Within(t, check.Patience, "all is read", func() error {
		if at := a.dispatch.Position(); at < last {
			return fmt.Errorf("evaluated up to %d", at)
		}
		if at := a.sessions.Position(); at < last {
			return fmt.Errorf("fanned out up to %d", at)
		}
		return nil
	})
	halt(t, a)
	known(t, a, last)
	cutJournal(t, string(a.cfg.Uplink.Journal.Dir), "lost-1")

	a, _ = boot(t, file)
	found := a.journal.Stat().Corruptions
	if len(found) != 1 || found[0].First != last-1 || found[0].Last != last {
		t.Errorf("corruptions %+v, want records %d and %d", found, last-1, last)
	}
	if seq := journalOne(t, a, "new"); seq != last+1 {
		t.Errorf("sequence %d follows %d", seq, last)
	}
}

// known checks that either reader of the journal has written down how far it came.
func known(t *testing.T, a *App, last uint64) {
	t.Helper()
	db, err := openState(string(a.cfg.DataDir), nil)
	check.OK(t, err)
	defer db.Close() //nolint:errcheck // only read
	for name, read := range map[string]func(*statefile.DB) (uint64, uint64, error){
		"rules": sink.JournalKnown, "sessions": session.JournalKnown, "both": journalKnown,
	} {
		if epoch, seq, err := read(db); err != nil || epoch != a.journal.Epoch() || seq != last {
			t.Errorf("%s know of journal %d up to %d, %v; it is %d up to %d", name, epoch, seq, err, a.journal.Epoch(), last)
		}
	}
}

// The journal retains everything until all its consumers have registered their positions.
func TestJournalIsRetainedUntilConsumersRegister(t *testing.T) {
	t.Parallel()
	cfg, err := configs.Load(write(t, t.TempDir(), ""))
	check.OK(t, err)
	p := newProcess(Options{Config: cfg, Log: io.Discard, Clock: clock.System()}, descriptors{clients: 1000, api: 100})
	t.Cleanup(func() {
		if err := p.life.stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	d, err := openDisk(p)
	check.OK(t, err)
	if at, held := d.journal.Stat().Needed[opening]; !held || at != d.journal.First() {
		t.Errorf("held from %d (%v), want from the first record, %d", at, held, d.journal.First())
	}
	_, err = openParts(d)
	check.OK(t, err)
	needed := d.journal.Stat().Needed
	if _, held := needed[opening]; held || len(needed) < 2 {
		t.Errorf("the journal is needed by %v, want its consumers alone", needed)
	}
}

// A gateway does not start on a damaged state file; the error names the file, the damage, and the remedy.
func TestADamagedStateFileIsRefused(t *testing.T) {
	t.Parallel()
	file := write(t, t.TempDir(), "")
	a, _ := boot(t, file)
	last := journalOne(t, a, "kept")
	check.Within(t, check.Patience, "all is read", func() error {
		if at := a.sessions.Position(); at < last {
			return fmt.Errorf("fanned out up to %d", at)
		}
		return nil
	})
	halt(t, a)
	state := filepath.Join(string(a.cfg.DataDir), "state.db")
	sound := check.Read(t, state)
	at := bytes.LastIndex(sound, []byte("position"))
	if at < 0 {
		t.Fatal("no position in state.db")
	}
	header := bytes.Clone(sound)
	copy(header[16:], "damaged")
	flipped := bytes.Clone(sound)
	for at := 0; ; { // every copy of the value, old ones among them
		next := bytes.Index(flipped[at:], []byte("position"))
		if next < 0 {
			break
		}
		at += next + len("position")
		flipped[at+8] ^= 4
	}
	for name, data := range map[string][]byte{"bit": flipped, "cut": sound[:len(sound)/2-100], "empty": nil} {
		check.OK(t, os.WriteFile(state, data, 0o600))
		err := refusedStart(t, file)
		if err == nil {
			t.Fatalf("%s: the gateway starts", name)
		}
		for _, part := range []string{"data_dir: ", state, "damaged", "cellgate repair"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: no %q in %v", name, part, err)
			}
		}
	}
	// An unreadable header loses nothing after a clean stop, and is reported.
	check.OK(t, os.WriteFile(state, header, 0o600))
	b, log := boot(t, file)
	if b.sessions.Position() < last || !strings.Contains(log.String(), "a header of state.db is unreadable") {
		t.Errorf("position %d, want %d; log %s", b.sessions.Position(), last, log.String())
	}
}
