package statefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// ErrGone is wrapped by every transaction after the file was found deleted or replaced: no later start would find its
// commits.
var ErrGone = errors.New("state file deleted or replaced under the running gateway")

// checkPlace checks, as every Update does, whether the file is still in its place. If not, it saves the committed
// content: in the file's place if that is empty, else under another name. It calls Options.OnFatal; the DB takes no
// more transactions.
func (db *DB) checkPlace() error {
	if broken := db.broken.Load(); broken != nil {
		return *broken
	}
	at, err := os.Stat(db.file)
	switch {
	case err == nil && os.SameFile(at, db.info):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil // the lookup failed: that proves nothing
	}
	db.lost.Do(func() {
		file, err := db.keep()
		if err != nil {
			err = fmt.Errorf("%s: %w; its content could not be saved: %w", db.file, ErrGone, err)
		} else {
			err = fmt.Errorf("%s: %w; its content is in %s", db.file, ErrGone, file)
		}
		db.broken.CompareAndSwap(nil, &err)
		if db.onFatal != nil {
			go db.onFatal(err)
		}
	})
	return *db.broken.Load()
}

var errKept = errors.New("kept")

// keep writes the committed content to a file and returns its name.
func (db *DB) keep() (name string, err error) {
	// A transaction excludes other writers. It is rolled back.
	err = db.bolt.Update(func(*bbolt.Tx) error {
		if name, err = db.copy(); err != nil {
			return err
		}
		return errKept
	})
	if errors.Is(err, errKept) {
		err = nil
	}
	return name, err
}

func (db *DB) copy() (name string, err error) {
	dir, base := filepath.Split(db.file)
	f, err := os.CreateTemp(filepath.Clean(dir), base+".kept-"+time.Now().UTC().Format("20060102T150405Z")+"-*")
	if err != nil {
		return "", err
	}
	info, err := db.open.Stat()
	if err == nil {
		_, err = io.Copy(f, io.NewSectionReader(db.open, 0, info.Size()))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	// A link does not replace a file put there meanwhile.
	if err := os.Link(f.Name(), db.file); err == nil {
		return db.file, errors.Join(os.Remove(f.Name()), syncDir(filepath.Clean(dir)))
	}
	return f.Name(), syncDir(filepath.Clean(dir))
}

// Watch calls checkPlace periodically until ctx ends, because an idle gateway does not write.
func (db *DB) Watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if db.checkPlace() != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
