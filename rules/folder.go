package rules

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cellgate/configs/settled"
)

// Errors of a folder that cannot stand for a rule set.
var (
	// ErrNoFiles says that a folder has no rule file.
	ErrNoFiles = errors.New("no file ends with " + rulesSuffix)
	// ErrAllRulesGone says that the files hold no rule while some are in force, and that none of them says newly that
	// this is meant.
	ErrAllRulesGone = errors.New("the files hold no rules any more")
)

var errTestTime = errors.New("rules: the tests beside them take too long")

// SayNone tells how one says that no rules are wanted.
const SayNone = "put rules there, or, if none are wanted, a file none" + rulesSuffix + " with `rules: []`"

// Folder is what a folder of rules held at one moment: the rules, and the tests beside them.
type Folder struct {
	Source *Source
	tests  *Source
}

// ReadFolder reads the rule and test files below root, which is a folder or a single rule file. It believes what two
// reads in a row agree upon (package settled).
func ReadFolder(ctx context.Context, root string) (*Folder, error) {
	return settled.Read(ctx, func() (*Folder, string, error) {
		f, err := LookFolder(root)
		if err != nil {
			return nil, "", err
		}
		return f, f.Hash(), nil
	})
}

// LookFolder is ReadFolder with one read only: enough to see whether anything has changed.
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
	if f.tests, err = loadFS(os.DirFS(root), testSuffix, ""); err != nil {
		return nil, fmt.Errorf("rules: %s: %w", root, err)
	}
	f.tests.root = src.root
	return f, nil
}

// Hash tells folders apart whose rules or tests differ.
func (f *Folder) Hash() string {
	sum := sha256.Sum256(append(f.Source.Marshal(), f.tests.Marshal()...))
	return hex.EncodeToString(sum[:])
}

// Compile compiles the folder's rules as they may go into force. Beyond Compile of a source it refuses a folder
// without a rule file (ErrNoFiles) and a file without a list of rules, which is one that somebody has yet to write.
func (f *Folder) Compile(o Options) (*Set, error) {
	if len(f.Source.names) == 0 {
		return nil, fmt.Errorf("rules: %s: %w; %s", f.Source.root, ErrNoFiles, SayNone)
	}
	set, found := Compile(f.Source, o)
	if err := found.Err(); err != nil {
		return nil, err
	}
	return set, set.unfinished.Err()
}

// Loses returns ErrAllRulesGone when set, compiled from the folder, has no rules while the one in force has some,
// and no file of the folder is new or changed. A file that says `rules: []` and says so newly is word enough.
func (f *Folder) Loses(set, inForce *Set) error {
	if inForce == nil || len(inForce.rules) == 0 || len(set.rules) > 0 {
		return nil
	}
	for _, name := range f.Source.names {
		if !bytes.Equal(f.Source.files[name], inForce.source.files[name]) {
			return nil
		}
	}
	return fmt.Errorf("rules: %s: %w; put them back, or, if none are wanted, write `rules: []` into another file or call "+
		"`cellgate rules apply --allow-empty`", f.Source.root, ErrAllRulesGone)
}

// FailedTestsError says which tests of a folder fail.
type FailedTestsError []TestResult

// Error names the first failing test and its first failure, and how many more there are.
func (e FailedTestsError) Error() string {
	first := e[0]
	text := fmt.Sprintf("rules: the test %q fails", first.Name)
	if len(first.Failures) > 0 {
		text += fmt.Sprintf(": %s:%d: step %d: %s", first.File, first.Failures[0].Line, first.Failures[0].Step, first.Failures[0].Message)
	}
	if len(e) > 1 {
		text += fmt.Sprintf(" (and %s)", counted(len(e)-1, "more test"))
	}
	return text + "; `cellgate rules test` shows all"
}

// Test runs the folder's tests on its rules, as `cellgate rules test` does. A folder without tests passes. The error is
// Diagnostics when a test does not fit the rules, FailedTestsError when one fails, and ctx's when time runs out.
func (f *Folder) Test(ctx context.Context, o ToolOptions) error {
	ws := &workspace{rules: f.Source.byPath(), tests: f.tests.byPath()}
	rep, err := ws.test(ctx, o)
	switch {
	case errors.Is(err, ErrNoTests):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", errTestTime, err)
	case len(rep.Diagnostics) > 0:
		return rep.Diagnostics
	}
	var failed FailedTestsError
	for _, r := range rep.Results {
		if !r.Passed {
			failed = append(failed, r)
		}
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

// byPath are the files by their names as a user would type them.
func (s *Source) byPath() map[string][]byte {
	files := make(map[string][]byte, len(s.names))
	for _, name := range s.names {
		files[s.display(name)] = s.files[name]
	}
	return files
}

// Reason says in a few words, without the names of files, why files are not in force.
func Reason(err error) string {
	if reason := refusal(err); reason != "" {
		return reason
	}
	return "the rule files are not in force"
}

// Refused reports whether an error is about the files.
func Refused(err error) bool { return refusal(err) != "" }

func refusal(err error) string {
	var unsettled *settled.UnsettledError
	var failed FailedTestsError
	var found Diagnostics
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the rules folder is not there"
	case errors.Is(err, ErrNoFiles):
		return "the rules folder has no file of rules"
	case errors.Is(err, ErrAllRulesGone):
		return "the rule files hold no rules any more"
	case errors.As(err, &unsettled):
		return "the rule files are still being written"
	case errors.As(err, &failed), errors.Is(err, errTestTime):
		return "a test beside the rules fails"
	case errors.As(err, &found):
		return "the rule files have errors"
	}
	return ""
}

// loadFS reads the files of fsys whose names end with suffix, or only one.
func loadFS(fsys fs.FS, suffix, only string) (*Source, error) {
	if only != "" {
		b, err := readFile(fsys, only)
		if err != nil {
			return nil, err
		}
		return NewSource(map[string][]byte{only: b}), nil
	}
	files := make(map[string][]byte)
	err := walkYAML(fsys, suffix, func(name string) error {
		if len(files) == MaxFiles {
			return fmt.Errorf("%w: more than %d", ErrTooManyFiles, MaxFiles)
		}
		b, err := readFile(fsys, name)
		files[name] = b
		return err
	})
	if err != nil {
		return nil, err
	}
	return NewSource(files), nil
}

// noFiles is the finding of a check that met no rule file.
func noFiles(paths []string) Diagnostic {
	return Diagnostic{
		File: filepath.ToSlash(strings.Join(paths, ", ")), Line: 1, Column: 1, Code: CodeMissing, Rule: "folder",
		Message: ErrNoFiles.Error() + ": a gateway refuses the folder", Suggestion: SayNone,
	}
}
