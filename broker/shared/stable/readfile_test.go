package stable

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cellgate/test/check"
)

// TestReadFile: what is no file with content is an error that names it. A named pipe without a writer does not hang.
func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	check.OK(t, syscall.Mkfifo(in("pipe"), 0o600))
	check.OK(t, os.Mkdir(in("folder"), 0o700))
	check.OK(t, os.WriteFile(in("empty"), nil, 0o600))
	check.OK(t, os.WriteFile(in("long"), make([]byte, maxFile+1), 0o600))
	check.OK(t, os.WriteFile(in("file"), []byte("text"), 0o600))
	check.OK(t, os.Symlink("file", in("link")))
	for name, want := range map[string]string{
		"pipe": "a named pipe", "folder": "a folder", "empty": "is empty", "long": "is longer than 4 MiB", "none": "no such file", "file": "", "link": "",
	} {
		b, err := ReadFile(in(name))
		if want == "" {
			if err != nil || string(b) != "text" {
				t.Errorf("%s: %q, %v", name, b, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), in(name)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
