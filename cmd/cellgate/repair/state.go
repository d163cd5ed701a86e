package repair

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cellgate/broker/journal"
	"cellgate/broker/shared/statefile"
	"cellgate/rules/sink"
)

// state opens state.db, or reports why it cannot be opened.
func (d *data) state() error {
	file := filepath.Join(d.Dir, "state.db")
	if info, _ := os.Stat(file); info == nil || info.IsDir() {
		return nil // the start creates it; kinds reports a folder
	}
	db, err := statefile.Open(file, statefile.Options{Timeout: patient, Sync: statefile.SyncAlways})
	switch {
	case err == nil:
		d.db = db
		return nil
	case errors.Is(err, statefile.ErrLocked):
		return fmt.Errorf("%s: %w", d.Dir, errInUse)
	case !errors.Is(err, statefile.ErrDamaged) && !errors.Is(err, statefile.ErrFormat):
		return err
	}
	d.add(Finding{
		Path: file, Problem: err.Error(), Action: "move it to " + d.keep(file) + "; the start creates a new one",
		Lost: "sessions with their queues, open commands and the history of commands, the operator state of rules " +
			"(threshold, sample …), and the counts of the ledgers. No telemetry: the journal is evaluated and delivered again. " + held(file),
		do: func() error { return d.away(file) },
	})
	return nil
}

// held describes what a damaged state file contained.
func held(file string) string {
	var parts []string
	for bucket, n := range statefile.Counts(file) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", bucket, n))
		}
	}
	if len(parts) == 0 {
		return "How much is unknown"
	}
	slices.Sort(parts)
	return "Entries according to its header: " + strings.Join(parts, ", ")
}

// logs finds decision logs that lack what the state file refers to.
func (d *data) logs() error {
	if d.db == nil {
		return nil
	}
	dir := filepath.Join(d.Dir, "decisions")
	epoch, err := d.epoch()
	if err != nil {
		return err
	}
	found, err := sink.CheckLogs(d.db, dir, epoch)
	if err != nil {
		return err
	}
	for _, bad := range found {
		f := Finding{
			Path: filepath.Join(dir, bad.Sink), Problem: bad.Err.Error(),
			Action: fmt.Sprintf("keep the decisions on the %d readable records, and the old files in %s", bad.Pending-bad.Lost,
				d.keep(filepath.Join(dir, bad.Sink))),
			do: func() error {
				_, err := sink.RepairLog(d.db, dir, d.keep(filepath.Join(dir, bad.Sink)), bad.Sink, epoch)
				return err
			},
		}
		if bad.Lost > 0 {
			f.Records = map[string]uint64{bad.Sink: bad.Lost}
			f.Lost = fmt.Sprintf("%d messages of %d for sink %s, among the journal's records %d to %d; its ledger counts them as dropped (%s). "+
				"`cellgate journal dump %s --from %d` shows the records while the journal has them",
				bad.Lost, bad.Pending, bad.Sink, bad.First, bad.Last, sink.DecisionsLost, d.Journal, bad.First)
		}
		d.add(f)
	}
	return nil
}

// epoch returns the journal's epoch, 0 without a journal.
func (d *data) epoch() (uint64, error) {
	r, err := journal.Inspect(d.Journal)
	if errors.Is(err, fs.ErrNotExist) || len(d.report.Findings) > 0 {
		return r.Epoch, nil // seen again when what was found is out of the way
	}
	return r.Epoch, err
}
