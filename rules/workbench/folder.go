package workbench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"cellgate/broker/shared/stable"
	"cellgate/rules/doc"
	"cellgate/rules/lang"
)

var errTestTime = errors.New("rules: the tests next to them take too long")

// failedTestsError lists the failing tests of a folder.
type failedTestsError []testResult

// Error names the first failing test, its first failure, and the number of further failing tests.
func (e failedTestsError) Error() string {
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

// TestFolder runs a folder's tests on its rules, like `cellgate rules test`. A folder without tests passes. The error
// is Diagnostics if a test does not fit the rules, failedTestsError if one fails, and that of ctx if it ends first.
func TestFolder(ctx context.Context, f *lang.Folder, o ToolOptions) error {
	ws := &workspace{rules: f.Source.ByPath(), tests: f.Tests.ByPath()}
	rep, err := ws.test(ctx, o)
	switch {
	case errors.Is(err, errNoTests):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", errTestTime, err)
	case rep.Diagnostics.HasErrors():
		return rep.Diagnostics
	}
	var failed failedTestsError
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

// Reason returns a short reason why files are not in force, without file names.
func Reason(err error) string {
	if reason := refusal(err); reason != "" {
		return reason
	}
	return "the rule files are not in force"
}

// Refused reports whether an error is caused by the files.
func Refused(err error) bool { return refusal(err) != "" }

func refusal(err error) string {
	var changing *stable.ChangingError
	var failed failedTestsError
	var found doc.Diagnostics
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the rules folder is missing"
	case errors.Is(err, lang.ErrNoFiles):
		return "the rules folder has no file of rules"
	case errors.Is(err, lang.ErrAllRulesGone):
		return "the rule files no longer contain rules"
	case errors.As(err, &changing):
		return "the rule files are still being written"
	case errors.As(err, &failed), errors.Is(err, errTestTime):
		return "a test of the rules fails"
	case errors.As(err, &found):
		return "the rule files have errors"
	}
	return ""
}
