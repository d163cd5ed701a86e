package lang

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"cellgate/broker/shared/stable"
)

// Errors of a folder that cannot be applied as a rule set.
var (
	// ErrNoFiles means that a folder has no rule file.
	ErrNoFiles = errors.New("no file ends with " + RulesSuffix)
	// ErrAllRulesGone means that the files have no rules although some are in force, and no new or changed file
	// confirms that this is intended.
	ErrAllRulesGone = errors.New("the files no longer contain rules")
)

// SayNone tells the user how to confirm that there are no rules.
const SayNone = "put rules there, or, to run without rules, a file none" + RulesSuffix + " with `rules: []`"

// Folder is a snapshot of a rule folder: the rules and their tests.
type Folder struct {
	Source *Source
	Tests  *Source
}

// ReadFolder reads the rule and test files below root, which is a folder or a single rule file. It repeats until two
// consecutive reads agree (package settled).
func ReadFolder(ctx context.Context, root string) (*Folder, error) {
	return stable.Read(ctx, func() (*Folder, string, error) {
		f, err := LookFolder(root)
		if err != nil {
			return nil, "", err
		}
		return f, f.Hash(), nil
	})
}

// LookFolder reads once, without waiting for the files to settle. It is enough to detect a change.
func LookFolder(root string) (*Folder, error) {
	src, err := Load(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; %s", err, SayNone)
	}
	if err != nil {
		return nil, err
	}
	f := &Folder{src, NewSource(map[string][]byte{})}
	if info, err := os.Stat(root); err != nil || !info.IsDir() {
		return f, err
	}
	if f.Tests, err = loadFS(os.DirFS(root), TestSuffix, ""); err != nil {
		return nil, fmt.Errorf("rules: %s: %w", root, err)
	}
	f.Tests.root = src.root
	return f, nil
}

// Hash returns a hash of rules and tests in hex.
func (f *Folder) Hash() string {
	sum := sha256.Sum256(append(f.Source.Marshal(), f.Tests.Marshal()...))
	return hex.EncodeToString(sum[:])
}

// Compile compiles the folder's rules for use. In addition to Compile of a source it refuses a folder without a rule
// file (ErrNoFiles) and a file without a list of rules, which is unfinished.
func (f *Folder) Compile(o Options) (*Set, error) {
	if len(f.Source.names) == 0 {
		return nil, fmt.Errorf("rules: %s: %w; %s", f.Source.root, ErrNoFiles, SayNone)
	}
	set, found := Compile(f.Source, o)
	if err := found.Err(); err != nil {
		return nil, err
	}
	return set, set.Unfinished.Err()
}

// Loses returns ErrAllRulesGone if set, compiled from the folder, has no rules while the one in force has some and no
// rule file is new or changed. A new or changed file with `rules: []` is confirmation enough.
func (f *Folder) Loses(set, inForce *Set) error {
	if inForce == nil || len(inForce.Compiled) == 0 || len(set.Compiled) > 0 {
		return nil
	}
	for _, name := range f.Source.names {
		if !IsData(name) && !bytes.Equal(f.Source.files[name], inForce.source.files[name]) {
			return nil
		}
	}
	return fmt.Errorf("rules: %s: %w; put them back, or, to run without rules, write `rules: []` into another file or call "+
		"`cellgate rules apply --allow-empty`", f.Source.root, ErrAllRulesGone)
}

// ByPath returns the files by their paths as a user would type them.
func (s *Source) ByPath() map[string][]byte {
	files := make(map[string][]byte, len(s.names))
	for _, name := range s.names {
		files[s.display(name)] = s.files[name]
	}
	return files
}

// loadFS reads the files of fsys whose names end with suffix; if only is set, that one file.
func loadFS(fsys fs.FS, suffix, only string) (*Source, error) {
	if only != "" {
		b, err := ReadFile(fsys, only)
		files := map[string][]byte{only: b}
		if err == nil {
			err = addData(fsys, files)
		}
		return NewSource(files), err
	}
	files := make(map[string][]byte)
	err := WalkYAML(fsys, suffix, func(name string) error {
		if len(files) == MaxFiles {
			return fmt.Errorf("%w: more than %d", ErrTooManyFiles, MaxFiles)
		}
		b, err := ReadFile(fsys, name)
		files[name] = b
		return err
	})
	if err == nil && suffix == RulesSuffix {
		err = addData(fsys, files)
	}
	return NewSource(files), err
}

func addData(fsys fs.FS, files map[string][]byte) error {
	return AddData(files, func(name string, limit int64) ([]byte, error) { return ReadData(fsys, name, limit) })
}
