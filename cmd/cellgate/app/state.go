package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/session"
	"cellgate/broker/shared/metric"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
	"cellgate/cmd/cellgate/repair"
	"cellgate/cmd/cellgate/runfile"
	"cellgate/rules/sink"
)

// stateLock is how long the start waits for the lock of the state file, which a stopping gateway may still hold.
const stateLock = 2 * time.Second

// openState opens the state file. Sessions, commands, checkpoints and cursors each have a bucket in it.
func openState(dir string, onFatal func(error)) (*statefile.DB, error) {
	if err := (wal.OS{}).MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	file := filepath.Join(dir, "state.db")
	db, err := statefile.Open(file, statefile.Options{Timeout: stateLock, Sync: statefile.SyncAlways, OnFatal: onFatal})
	if errors.Is(err, statefile.ErrLocked) {
		return nil, inUse(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	return db, nil
}

// reportFallBack counts, logs and records a start from the last transaction but one.
func reportFallBack(fellBack bool, reg prometheus.Registerer, lost *losses) error {
	count := metric.For(reg).Counter("state_fallbacks_total",
		"Starts with an unreadable header in state.db: the last transaction before the stop may be missing.")
	if !fellBack {
		return nil
	}
	count.Inc()
	const what = "a header of state.db is unreadable: the last transaction before the stop may be missing; " +
		"a power loss in the middle of a write leaves this, and so does a damaged disk"
	lost.log.Error(what, slog.String("file", "state.db"))
	return lost.note(partState, what)
}

// reportMissing counts, logs and records a start that recreated a missing part.
func (p *process) reportMissing(to *losses, what, lost string) error {
	p.missing.WithLabelValues(what).Inc()
	p.log.Error("part of data_dir is missing and is created", slog.String("part", what), slog.String("lost", lost),
		slog.String("data_dir", string(p.cfg.DataDir)))
	return to.note(what, "it was missing and is recreated: "+lost)
}

func newMissing(reg prometheus.Registerer) *prometheus.CounterVec {
	return metric.For(reg).Counters("state_missing_total",
		"Starts that found a part of an existing data_dir missing, by part: state, journal, keys.", "part")
}

// inUse returns an error that says which process uses the data folder.
func inUse(dir string) error {
	if f, err := runfile.Read(dir); err == nil && f != nil {
		return fmt.Errorf("data_dir: %s is in use by the gateway with process id %d; stop it, or use another folder", dir, f.PID)
	}
	return fmt.Errorf("data_dir: %s is in use by another process; stop it, or use another folder", dir)
}

// journalKnown returns the newest journal known to cursors in the state file, and the highest sequence that one of them
// reached in it. A journal that ends before that has lost its end, which it cannot detect by itself.
func journalKnown(db *statefile.DB) (epoch, last uint64, err error) {
	for _, known := range []func(*statefile.DB) (uint64, uint64, error){sink.JournalKnown, session.JournalKnown} {
		e, l, err := known(db)
		if err != nil {
			return 0, 0, fmt.Errorf("data_dir: %w", err)
		}
		// Epochs grow with time.
		if e > epoch || (e == epoch && l > last) {
			epoch, last = e, l
		}
	}
	return epoch, last, nil
}

// remedy adds to an error of the start what can be done about the data folder, if that is the cause.
func (p *process) remedy(err error) error {
	found, cannot := repair.Examine(repair.Options{
		Dir: string(p.cfg.DataDir), Journal: string(p.cfg.Uplink.Journal.Dir), Keys: string(p.cfg.Auth.KeysDir),
	})
	if cannot != nil || len(found.Findings) == 0 {
		return err
	}
	return fmt.Errorf("%w\n`cellgate repair %s` shows what can be done about the data folder, and what would be lost", err, p.cfg.DataDir)
}

func closeState(db *statefile.DB) func(context.Context) error {
	return func(context.Context) error { return db.Close() }
}
