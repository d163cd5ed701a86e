package fleet

import (
	"os"
	"path/filepath"
	"testing"

	"cellgate/test/check"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	check.OK(t, os.MkdirAll(dir, 0o750))
	file := filepath.Join(dir, name)
	check.OK(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// tear leaves a line without its end, as a crash does.
func tear(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // a test's file
	check.OK(t, err)
	if _, err := f.WriteString("V 99"); err != nil {
		t.Fatal(err)
	}
	check.OK(t, f.Close())
}
