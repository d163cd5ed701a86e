package wal

import (
	"crypto/sha256"
	"encoding/binary"
)

// Identity names the owner of a log. It is in the header of each segment, in the seed of each batch's checksum and in
// each Position, so that no part of another log is read as part of this one.
type Identity struct {
	Name  string
	Epoch uint64 // of the journal that it is about; 0: of none
}

// code is the identity as a header stores it.
func (i Identity) code() uint64 {
	sum := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(i.Name), i.Epoch))
	return binary.LittleEndian.Uint64(sum[:]) | 1 // never 0
}

// Position is a place in a log.
type Position struct {
	Log     uint64 `json:"log,omitempty"` // the identity's code; 0: not told, by a version that did not know it
	Segment uint64 `json:"segment"`
	Offset  int64  `json:"offset"`
}
