package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FileDamage describes a file of a keys directory that Open refuses.
type FileDamage struct {
	Name string // within the directory
	Err  error
	// Lines and Unreadable count the entries of the revocation log.
	Lines, Unreadable int
}

// CheckDir checks the files of a keys directory as Open does, without changing anything.
func CheckDir(dir string) ([]FileDamage, error) {
	names, err := keyFiles(dir)
	if err != nil {
		return nil, err
	}
	var found []FileDamage
	for _, name := range names {
		if _, err := loadKey(name, &issuer{}); err != nil {
			found = append(found, FileDamage{Name: filepath.Base(name), Err: err})
		}
	}
	good, lines, err := readableRevocations(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		found = append(found, FileDamage{Name: revLogName, Err: err})
	case len(good) < lines:
		found = append(found, FileDamage{Name: revLogName, Err: errRevocationLog, Lines: lines, Unreadable: lines - len(good)})
	}
	return found, nil
}

// RepairRevocations rewrites the revocation log with its readable lines, and stores the previous file at the path
// backup.
func RepairRevocations(dir, backup string) error {
	good, _, err := readableRevocations(dir)
	if err != nil {
		return err
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer unlock()
	var buf bytes.Buffer
	for i := range good {
		if err := appendLine(&buf, &good[i]); err != nil {
			return err
		}
	}
	name := filepath.Join(dir, revLogName)
	was, err := os.ReadFile(name) //nolint:gosec // the configured directory
	if err != nil {
		return err
	}
	if err := writeFileAtomic(backup, was); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return writeFileAtomic(name, buf.Bytes())
}

// readableRevocations returns the entries of the readable lines, and the number of all lines.
func readableRevocations(dir string) (good []Revocation, lines int, err error) {
	b, err := os.ReadFile(filepath.Join(dir, revLogName)) //nolint:gosec // the configured directory
	if err != nil {
		return nil, 0, err
	}
	for {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if !whole {
			return good, lines, nil
		}
		lines++
		if r, err := parseLine(line); err == nil {
			good = append(good, r)
		}
		b = rest
	}
}
