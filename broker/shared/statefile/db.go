package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"cellgate/broker/shared/complete"
)

// MaxKeySize is the longest key, in bytes.
const MaxKeySize = bbolt.MaxKeySize

// ErrLocked is returned by Open if another process has the file open.
var ErrLocked = errors.New("state file in use by another process")

// ErrFormat is wrapped if the file is sound but another version of this package, or another program, wrote it.
var ErrFormat = errors.New("state file not understood")

// Options configure Open.
type Options struct {
	// Timeout is how long Open waits for another process to release the file.
	Timeout time.Duration `zero:"tries once"`
	Sync    Sync
	// OnFatal is called once, when the DB takes no more transactions because bbolt has panicked or the file is no
	// longer in its place. It must not wait for the DB.
	OnFatal func(error) `zero:"nobody is told"`
}

// Sync says what a commit waits for. It replaces a file system that a test could choose, which bbolt does not support.
type Sync int

// Values of Sync.
const (
	SyncAlways Sync = iota + 1 // the disk: commits survive a power loss
	SyncNever                  // nothing: commits survive only a kill of the process
)

// DB is an open state file. Its methods are safe for concurrent use.
type DB struct {
	file     string
	bolt     *bbolt.DB
	open     *os.File    // bbolt's
	info     os.FileInfo // of open
	lost     sync.Once   // the file is no longer in its place
	fellBack bool
	onFatal  func(error)
	broken   atomic.Pointer[error] // set once bbolt has panicked: its locks may be held forever
}

// Open opens or creates the file and reads it once from end to end. An error wraps ErrDamaged, ErrFormat or ErrLocked,
// or is the file system's.
func Open(file string, o Options) (*DB, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	f, err := openLocked(file, o.Timeout)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(file, o); err != nil {
			return nil, fmt.Errorf("create %s: %w", file, err)
		}
		f, err = openLocked(file, o.Timeout)
	}
	if err != nil {
		return nil, err
	}
	// Also for an existing file: the start that created it may have been killed before it synced the directory.
	if err := syncDir(filepath.Dir(file)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	fellBack, err := verify(f, file)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	db := &DB{file: file, open: f, fellBack: fellBack, onFatal: o.OnFatal}
	if db.info, err = f.Stat(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if db.bolt, err = openBolt(file, f, o); err != nil {
		return nil, err
	}
	return db, nil
}

// openLocked opens the file exclusively, with bbolt's own lock: bbolt takes it again on the same open file.
func openLocked(file string, timeout time.Duration) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0) //nolint:gosec // the configured folder
	if err != nil {
		return nil, err
	}
	const again = 20 * time.Millisecond
	for deadline := time.Now().Add(timeout); ; time.Sleep(again) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // a descriptor is small
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
		}
		if !time.Now().Before(deadline) {
			return nil, errors.Join(fmt.Errorf("%s: %w", file, ErrLocked), f.Close())
		}
	}
}

// openBolt opens a locked and verified file with bbolt. A panic becomes an error.
func openBolt(file string, f *os.File, o Options) (b *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			// bbolt's map of the file remains and would keep the lock.
			unlock := syscall.Flock(int(f.Fd()), syscall.LOCK_UN) //nolint:gosec // a descriptor is small
			b, err = nil, errors.Join(damage(file, "%v", p), unlock, f.Close())
		}
	}()
	b, err = bbolt.Open(file, 0o600, options(f, o))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

// options returns bbolt's options. The list of free pages is not stored but rebuilt from the file, so no page of it can
// be damaged, and the page size is the same on all machines. If f is given, bbolt uses it instead of opening.
func options(f *os.File, o Options) *bbolt.Options {
	bo := &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, PageSize: pageSize, NoSync: o.Sync == SyncNever}
	bo.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		if first := f; first != nil {
			f = nil
			return first, nil
		}
		return os.OpenFile(name, flag, mode) //nolint:gosec // a copy for the caller
	}
	return bo
}

// create makes an empty state file under another name and links it into place complete, so that a file that is too
// short is damaged, not new.
func create(file string, o Options) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a leftover does no harm
	b, err := bbolt.Open(f.Name(), 0o600, options(f, o))
	if err != nil {
		return err
	}
	err = b.Update(func(tx *bbolt.Tx) error {
		r, err := tx.CreateBucket([]byte(reservedName))
		if err != nil {
			return err
		}
		path := appendPath("", []byte(reservedName))
		return r.Put(formatKey(), seal(seed(path), formatKey(), []byte{format}))
	})
	// The second transaction replaces bbolt's initial meta page.
	if err = errors.Join(err, b.Update(func(*bbolt.Tx) error { return nil }), b.Close()); err != nil {
		return err
	}
	// A link does not replace a file that another process has put there. Not every file system has links.
	if err := os.Link(f.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return os.Rename(f.Name(), file)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the configured folder
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Path returns the file's name as given to Open.
func (db *DB) Path() string { return db.file }

// FellBack reports whether one of the two meta pages was unreadable, so that the last transaction before the stop may
// be missing. A power loss during its write causes that; so does damage of more than one bit.
func (db *DB) FellBack() bool { return db.fellBack }

// Stats returns bbolt's counts since Open.
func (db *DB) Stats() bbolt.Stats { return db.bolt.Stats() }

// Update runs fn in a transaction. When it returns nil, the transaction is on disk; after an error of fn it is undone.
// One Update runs at a time.
func (db *DB) Update(fn func(*Tx) error) error {
	if err := db.run(db.bolt.Update, fn); err != nil {
		return err
	}
	return db.checkPlace()
}

// View runs fn on a snapshot of the content. What fn reads is valid only until it returns. A long View keeps the file
// from reusing its pages.
func (db *DB) View(fn func(*Tx) error) error {
	return db.run(db.bolt.View, fn)
}

func (db *DB) run(transaction func(func(*bbolt.Tx) error) error, fn func(*Tx) error) (err error) {
	if broken := db.broken.Load(); broken != nil {
		return *broken
	}
	tx := &Tx{db: db, inBolt: true}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer tx.rescue(&err)
	return transaction(func(b *bbolt.Tx) error {
		tx.bolt, tx.inBolt = b, false
		if err := fn(tx); err != nil {
			tx.inBolt = true
			return err
		}
		err := tx.writeDigests()
		tx.inBolt = true
		return errors.Join(err, tx.damage) // a caller that recovers the panic does not commit
	})
}

// Close closes the file once running transactions have ended. It first commits an empty transaction: both meta pages
// then have the same content, and the loss of one does no harm.
func (db *DB) Close() error {
	if broken := db.broken.Load(); broken != nil {
		return *broken
	}
	err := db.Update(func(*Tx) error { return nil })
	if errors.Is(err, bbolterrors.ErrDatabaseNotOpen) { // already closed
		err = nil
	}
	if db.broken.Load() != nil {
		return err
	}
	return errors.Join(err, db.bolt.Close())
}
