// Package wal is what the logs on the disk have in common: the file system below them.
package wal
