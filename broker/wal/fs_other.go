//go:build unix && !linux

package wal

func (f osFile) Preallocate(size int64) error { return writeZeros(f, 0, size) }

func (f osFile) SyncData() error { return f.Sync() }
