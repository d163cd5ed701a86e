package stable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// errNoFile means that a path names something that is not a regular file with content.
var errNoFile = errors.New("not a regular file")

// maxFile is the most that ReadFile reads, in bytes.
const maxFile = 4 << 20

// ReadFile is os.ReadFile for a file that the configuration names: it does not wait for a writer of a named pipe, and an
// empty or very large file is an error.
func ReadFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the configuration names the file
	if err != nil {
		return nil, err
	}
	b, err := readRegular(f)
	return b, errors.Join(err, f.Close())
}

func readRegular(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: %w, but %s", f.Name(), errNoFile, kindOf(info.Mode()))
	case info.Size() == 0:
		return nil, fmt.Errorf("%s: is empty", f.Name())
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s: is longer than %d MiB", f.Name(), maxFile>>20)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}
