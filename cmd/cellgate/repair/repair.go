// Package repair finds what in a data folder keeps a gateway from starting, and moves it to a backup folder. What is
// lost is counted in the ledger as far as the rest of the disk shows it.
package repair

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cellgate/auth"
	"cellgate/broker/journal"
	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal"
)

// Options locate a gateway's data.
type Options struct {
	// Dir is its data_dir.
	Dir string
	// Journal and Keys are its folders, which the configuration may place elsewhere.
	Journal, Keys string

	at time.Time // of the first look
}

// errInUse means that a process has the data folder open.
var errInUse = errors.New("a gateway uses it; stop it first")

// Finding is a problem that stops a start.
type Finding struct {
	Path    string `json:"path"`
	Problem string `json:"problem"`
	Action  string `json:"action"`
	Lost    string `json:"lost,omitempty"`
	// Records is how many acknowledged messages are lost, by the sink that counts them in its ledger.
	Records map[string]uint64 `json:"records,omitempty"`

	do func() error
}

// Report has the findings.
type Report struct {
	Dir      string    `json:"dir"`
	Backup   string    `json:"backup,omitempty"` // folder for what is moved away
	Repaired bool      `json:"repaired"`
	Findings []Finding `json:"findings"`
}

// patient is how long to wait for another process to release state.db.
const patient = 2 * time.Second

// Examine finds what stops a start, and changes nothing.
func Examine(o Options) (*Report, error) {
	d, err := open(&o)
	if err != nil {
		return nil, err
	}
	return d.report, errors.Join(d.examine(), d.close())
}

// Repair does what Examine reports, and examines again until nothing is left.
func Repair(o Options) (*Report, error) {
	var done []Finding
	for {
		d, err := open(&o)
		if err != nil {
			return nil, err
		}
		if err := d.examine(); err != nil {
			return nil, errors.Join(err, d.close())
		}
		if len(d.report.Findings) == 0 {
			d.report.Findings, d.report.Repaired = done, len(done) > 0
			return d.report, d.close()
		}
		// One at a time: it may have hidden others.
		f := d.report.Findings[0]
		if err := errors.Join(f.do(), d.close()); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
		if done = append(done, f); len(done) > maxRepairs {
			return nil, fmt.Errorf("%s: repaired and still there: %s", f.Path, f.Problem)
		}
	}
}

// maxRepairs bounds the findings of one repair.
const maxRepairs = 10_000

// data is a data folder that no gateway has open.
type data struct {
	*Options
	report *Report
	locks  []io.Closer
	db     *statefile.DB // nil: none, or damaged
}

func open(o *Options) (*data, error) {
	if err := complete.Check(*o); err != nil {
		return nil, err
	}
	info, err := os.Stat(o.Dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", o.Dir, reason(err))
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a folder: name the data_dir of a gateway", o.Dir)
	}
	d := &data{Options: o}
	d.report = &Report{Dir: o.Dir, Backup: o.backup(), Findings: []Finding{}}
	lock, err := journal.Lock(o.Journal)
	if errors.Is(err, wal.ErrLocked) {
		return nil, fmt.Errorf("%s: %w", o.Dir, errInUse)
	}
	if err == nil { // otherwise there is no journal, or examine reports it
		d.locks = append(d.locks, lock)
	}
	return d, nil
}

// backup returns the folder of one repair. It stays the same after the first call.
func (o *Options) backup() string {
	if o.at.IsZero() {
		o.at = time.Now().UTC()
	}
	return filepath.Join(o.Dir, "repair-"+o.at.Format("20060102T150405.000Z"))
}

func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func (d *data) close() (err error) {
	if d.db != nil {
		err = d.db.Close()
	}
	for _, l := range d.locks {
		err = errors.Join(err, l.Close())
	}
	return err
}

func (d *data) add(f Finding) { d.report.Findings = append(d.report.Findings, f) }

// examine checks the folder in the order of a start.
func (d *data) examine() error {
	for _, look := range []func() error{d.kinds, d.state, d.keys, d.logs} {
		if err := look(); err != nil {
			return err
		}
	}
	return nil
}

// kinds finds folders in place of files, and files in place of folders.
func (d *data) kinds() error {
	decisions := filepath.Join(d.Dir, "decisions")
	logs, err := filepath.Glob(filepath.Join(decisions, "*"))
	if err != nil {
		return err
	}
	for _, dir := range append(logs, d.Journal, d.Keys, decisions, filepath.Join(d.Dir, "operators")) {
		if info, err := os.Lstat(dir); err == nil && info.Mode().IsRegular() {
			d.move(dir, "it is a file, and must be a folder")
		}
	}
	files := []string{filepath.Join(d.Dir, "state.db"), filepath.Join(d.Dir, "run.json"), filepath.Join(d.Dir, "run.json.new"), filepath.Join(d.Dir, "audit.log")}
	for _, pattern := range []string{
		filepath.Join(d.Journal, "*.log"), filepath.Join(d.Dir, "operators", "*.log"), filepath.Join(decisions, "*", "*.log"), filepath.Join(d.Journal, "LOCK"), filepath.Join(d.Keys, "key-*.json"),
		filepath.Join(d.Keys, "lock"), filepath.Join(d.Keys, "revocations.log"),
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.IsDir() {
			d.move(file, "it is a folder, and must be a file")
		}
	}
	return nil
}

// move reports something that is moved away as it is.
func (d *data) move(path, problem string) {
	d.add(Finding{Path: path, Problem: problem, Action: "move it to " + d.keep(path), do: func() error { return d.away(path) }})
}

// keep returns an unused name in the backup folder.
func (d *data) keep(path string) string {
	rel, err := filepath.Rel(d.Dir, path)
	if err != nil || !filepath.IsLocal(rel) {
		rel = filepath.Base(path)
	}
	name := filepath.Join(d.report.Backup, strings.ReplaceAll(rel, string(filepath.Separator), "_"))
	for i, free := 1, name; ; i++ {
		if _, err := os.Lstat(free); err != nil {
			return free
		}
		free = fmt.Sprintf("%s.%d", name, i)
	}
}

// away moves something to the backup, also across file systems.
func (d *data) away(path string) error {
	to := d.keep(path)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	err := os.Rename(path, to)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	if err := copyAll(to, path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// copyAll copies a file, or a folder with its contents.
func copyAll(to, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.CopyFS(to, os.DirFS(from))
	}
	b, err := os.ReadFile(from) //nolint:gosec // below the folders that the operator names
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600) //nolint:gosec // as above
}

// keys finds keys and revocations that cannot be read.
func (d *data) keys() error {
	if info, _ := os.Stat(d.Keys); info == nil || !info.IsDir() {
		return nil // the start creates it; kinds reports a file
	}
	found, err := auth.CheckDir(d.Keys)
	if err != nil {
		return err
	}
	for _, bad := range found {
		path := filepath.Join(d.Keys, bad.Name)
		f := Finding{Path: path, Problem: bad.Err.Error()}
		info, err := os.Stat(path)
		switch {
		case err == nil && info.IsDir():
			continue // kinds reports it
		case err == nil && bad.Lines == 0 && info.Mode().Perm()&0o077 != 0:
			f.Action, f.do = "chmod 600", func() error { return os.Chmod(path, 0o600) }
			d.add(f)
			continue
		}
		if bad.Lines > 0 {
			f.Action = fmt.Sprintf("keep the %d readable entries, and the old file in %s", bad.Lines-bad.Unreadable, d.keep(path))
			f.Lost = fmt.Sprintf("%d revocations: tokens that they named are accepted again until they end; revoke them again, or all "+
				"tokens issued before now", bad.Unreadable)
			f.do = func() error {
				if err := os.MkdirAll(filepath.Dir(d.keep(path)), 0o700); err != nil {
					return err
				}
				return auth.RepairRevocations(d.Keys, d.keep(path))
			}
		} else {
			f.Action = "move it to " + d.keep(path)
			f.Lost = "tokens signed with this key are refused; if there is no other key, the start creates a new one. Restore the file from " +
				"a backup instead if there is one"
			f.do = func() error { return d.away(path) }
		}
		d.add(f)
	}
	return nil
}
