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

// ErrLocked is returned by Open when another process keeps the file open.
var ErrLocked = errors.New("state file in use by another process")

// ErrFormat is wrapped when the file is whole and another version of this package wrote it, or none.
var ErrFormat = errors.New("state file not understood")

// Options say how a file is opened.
type Options struct {
	// Timeout is how long Open waits for another process to let go of the file; 0 tries once.
	Timeout time.Duration `zero:"tries once"`
	// Sync says what a commit waits for.
	Sync Sync
	// OnFatal is called once, when the DB takes no more transactions because bbolt has panicked. It does not wait
	// for the DB.
	OnFatal func(error) `zero:"nobody is told"`
}

// Sync says what a commit waits for. It stands for the file system, which bbolt does not let a test choose.
type Sync int

// What a commit waits for.
const (
	SyncAlways Sync = iota + 1 // the disk: what was committed survives a power loss
	SyncNever                  // nothing: what was committed survives the process alone
)

// DB is an open state file. Its methods may be called from any goroutine.
type DB struct {
	file     string
	bolt     *bbolt.DB
	open     *os.File    // bbolt's
	info     os.FileInfo // of it
	lost     sync.Once   // the file was found out of its place
	fellBack bool
	onFatal  func(error)
	broken   atomic.Pointer[error] // set once bbolt has panicked: its locks may be held for ever
}

// Open opens the file, which it makes when there is none, and reads it once from end to end. An error wraps
// ErrDamaged, ErrFormat or ErrLocked, or is the file system's.
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
	// Also of one that was there: the start that created it may have been killed before it had synced the directory.
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

// openLocked opens the file for this process alone. The lock is bbolt's own: it takes it once more, on the same
// open file.
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

// openBolt gives a locked and verified file to bbolt. A panic is an error all the same.
func openBolt(file string, f *os.File, o Options) (b *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			// bbolt's map of the file is left over and would keep the lock.
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

// options are those of every file: the free pages are not stored but found by reading, so there is no page of
// them to be damaged, and the page size is the same on all machines. With f bbolt takes it instead of opening.
func options(f *os.File, o Options) *bbolt.Options {
	bo := &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, PageSize: pageSize, NoSync: o.Sync == SyncNever}
	bo.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		if first := f; first != nil {
			f = nil
			return first, nil
		}
		return os.OpenFile(name, flag, mode) //nolint:gosec // a copy that the caller asks for
	}
	return bo
}

// create makes an empty state file beside its place and puts it there whole, so that a file that is there and too
// short is damaged and not new.
func create(file string, o Options) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // what is left over does no harm
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
	// The second one replaces the meta page that bbolt begins with.
	if err = errors.Join(err, b.Update(func(*bbolt.Tx) error { return nil }), b.Close()); err != nil {
		return err
	}
	// A link does not replace what another process was quicker to put there; not every file system has links.
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

// Path is the file's name as it was given to Open.
func (db *DB) Path() string { return db.file }

// FellBack tells that one of the two meta pages could not be read, so that the last transaction before the stop
// may be missing. A power loss in the middle of its write leaves a file so; damage of more than a bit does, too.
func (db *DB) FellBack() bool { return db.fellBack }

// Stats are bbolt's counts since Open.
func (db *DB) Stats() bbolt.Stats { return db.bolt.Stats() }

// Update runs fn in a transaction that is on disk, where the next Open finds it, when it returns nil. An error of fn undoes all
// of it. One Update runs at a time.
func (db *DB) Update(fn func(*Tx) error) error {
	if err := db.run(db.bolt.Update, fn); err != nil {
		return err
	}
	return db.CheckPlace()
}

// View runs fn on the content as of now. What fn reads is valid only until it returns. A View that lasts keeps
// the file from reusing its pages.
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
		return errors.Join(err, tx.damage) // a caller that swallows a panic does not commit
	})
}

// Close closes the file once running transactions have ended. It writes an empty transaction first: both meta
// pages then tell of the same content, and one of them can be lost without loss.
func (db *DB) Close() error {
	if broken := db.broken.Load(); broken != nil {
		return *broken
	}
	err := db.Update(func(*Tx) error { return nil })
	if errors.Is(err, bbolterrors.ErrDatabaseNotOpen) { // closed before
		err = nil
	}
	if db.broken.Load() != nil {
		return err
	}
	return errors.Join(err, db.bolt.Close())
}
