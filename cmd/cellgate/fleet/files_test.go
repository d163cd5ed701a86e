package fleet

import (
	"os"
	"path/filepath"
	"testing"

	"cellgate/test/check"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	check.Write(t, file, text)
	return file
}

// tear leaves a line without its end, as a crash does.
func tear(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // a test's file
	check.OK(t, err)
	_, err = f.WriteString("V 99")
	check.OK(t, err)
	check.OK(t, f.Close())
}
