package wal

import (
	"errors"

	"golang.org/x/sys/unix"
)

func (f osFile) Preallocate(size int64) error {
	err := retryEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) }) //nolint:gosec // a descriptor is small
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return writeZeros(f, 0, size)
	}
	return err
}

func (f osFile) SyncData() error {
	return retryEINTR(func() error { return unix.Fdatasync(int(f.Fd())) }) //nolint:gosec // a descriptor is small
}

func retryEINTR(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
