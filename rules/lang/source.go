package lang

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"cellgate/broker/shared/message/field"
)

// Bounds of a rule folder. They prevent reading a wrong path, such as a home directory or a data file.
const (
	// MaxFileBytes bounds a rule file.
	MaxFileBytes = 1 << 20
	// MaxFiles bounds the rule files of a set.
	MaxFiles = 1000
)

// Suffixes of rule files and test files.
const (
	RulesSuffix = ".rules.yaml"
	TestSuffix  = "_test.yaml"
)

// Errors of Load and UnmarshalSource.
var (
	ErrTooManyFiles = errors.New("too many rule files")
	ErrFileTooLarge = errors.New("rule file larger than 1 MiB")
	ErrBadSource    = errors.New("not a stored rule set")
)

// Source is the text of a rule set: every *.rules.yaml file below one folder, and the files of their zones and tables.
// It is immutable. Its hash depends only on names and contents, not on the folder's path, so that a set can be stored
// by its hash and compiled again after a restart.
type Source struct {
	root  string            // the folder it was read from, for messages only
	names []string          // sorted, slash-separated, relative to root
	files map[string][]byte // by name
}

// NewSource returns a source with these files, keyed by slash-separated name. It takes ownership of the map.
func NewSource(files map[string][]byte) *Source {
	s := &Source{files: files}
	for name := range files {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	return s
}

// Load reads the rule files below root, which is a folder or a single file. A folder without any is a valid, empty set.
// Hidden folders and files are skipped. The error names the path that failed.
func Load(root string) (*Source, error) {
	info, err := os.Stat(root)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	dir, only := root, ""
	if !info.IsDir() {
		dir, only = filepath.Dir(root), filepath.Base(root)
	}
	src, err := loadFS(os.DirFS(dir), RulesSuffix, only)
	if err != nil {
		return nil, fmt.Errorf("rules: %s: %w", root, err)
	}
	src.root = dir
	return src, nil
}

// WalkYAML calls fn with every file that ends with suffix, in lexical order, without hidden ones.
func WalkYAML(fsys fs.FS, suffix string, fn func(name string) error) error {
	return fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != "." && strings.HasPrefix(path.Base(name), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir() || !strings.HasSuffix(name, suffix):
			return nil
		}
		return fn(name)
	})
}

// ReadFile reads a file of at most MaxFileBytes.
func ReadFile(fsys fs.FS, name string) ([]byte, error) {
	b, err := ReadData(fsys, name, MaxFileBytes)
	if err == nil && len(b) > MaxFileBytes {
		err = fmt.Errorf("%s: %w", name, ErrFileTooLarge)
	}
	return b, err
}

// errNoFile is returned for pipes and devices: opening one may block forever, and with it every reload.
var errNoFile = errors.New("is not a regular file")

// ReadData reads a file up to limit+1 bytes, so that the caller can tell a file that is too large.
func ReadData(fsys fs.FS, name string, limit int64) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %w", name, errNoFile)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return b, err
}

// Files returns the sorted names of the files.
func (s *Source) Files() []string { return slices.Clone(s.names) }

// Bytes returns the contents of a file, nil if there is none of that name. Do not change them.
func (s *Source) Bytes(name string) []byte { return s.files[name] }

// display returns the name of a file as a user would type it.
func (s *Source) display(name string) string {
	if s.root == "" || s.root == "." {
		return name
	}
	return filepath.ToSlash(filepath.Join(s.root, filepath.FromSlash(name)))
}

// Hash returns the SHA-256 of names and contents in hex.
func (s *Source) Hash() string {
	sum := sha256.Sum256(s.Marshal())
	return hex.EncodeToString(sum[:])
}

// The stored form of a source. The first byte is the version.
//
//	version 1 byte, = 1
//	count   uvarint
//	count times, by name: name, contents; each uvarint length, bytes
const sourceVersion = 1

// Marshal returns the stored form. It depends on the files only, not on their folder.
func (s *Source) Marshal() []byte {
	b := binary.AppendUvarint([]byte{sourceVersion}, uint64(len(s.names)))
	for _, name := range s.names {
		b = field.AppendBytes(b, name)
		b = field.AppendBytes(b, s.files[name])
	}
	return b
}

// UnmarshalSource is the inverse of Marshal. The error wraps ErrBadSource.
func UnmarshalSource(b []byte) (*Source, error) {
	r := field.Reader{B: b}
	if v := r.Byte(); v != sourceVersion {
		return nil, fmt.Errorf("%w: version %d", ErrBadSource, v)
	}
	files := make(map[string][]byte)
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		name := string(r.Bytes())
		files[name] = slices.Clone(r.Bytes())
	}
	if r.Bad || len(r.B) != r.Off {
		return nil, fmt.Errorf("%w: damaged at byte %d of %d", ErrBadSource, r.Off, len(b))
	}
	return NewSource(files), nil
}
