package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"cellgate/broker/session"
	"cellgate/cmd/cellgate/runfile"
	"cellgate/rules/sink"
)

// stateLock is how long the start waits for another process to let go of the state file: a gateway that is
// just stopping.
const stateLock = 2 * time.Second

// openState opens the one state file. Sessions, commands, checkpoints and cursors each have a bucket in it.
func openState(dir string) (*bbolt.DB, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	file := filepath.Join(dir, "state.db")
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: stateLock, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, inUse(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("data_dir: %s: %w", file, err)
	}
	return db, nil
}

// inUse says who has the data folder.
func inUse(dir string) error {
	if f, err := runfile.Read(dir); err == nil && f != nil {
		return fmt.Errorf("data_dir: %s is in use by the gateway with process id %d; stop it, or use another folder", dir, f.PID)
	}
	return fmt.Errorf("data_dir: %s is in use by another process; stop it, or use another folder", dir)
}

// journalKnown is the newest journal that cursors in the state file know, and the highest sequence that one of
// them has reached there. A journal that ends before it has lost its end, which the journal alone cannot tell.
func journalKnown(db *bbolt.DB) (epoch, last uint64, err error) {
	for _, known := range []func(*bbolt.DB) (uint64, uint64, error){sink.JournalKnown, session.JournalKnown} {
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

func closeState(db *bbolt.DB) func(context.Context) error {
	return func(context.Context) error { return db.Close() }
}
