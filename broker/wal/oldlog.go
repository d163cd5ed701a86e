package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The format before had logs of segments with a header of 44 bytes. They are read, and never written:
//
//	magic    8 bytes  "cgdecs\x00\x03", the last one the version
//	number   8 bytes  its own
//	previous 8 bytes  number of the segment before it
//	end      8 bytes  where that one ends
//	epoch    8 bytes  of the journal; 0 in the operators' log; version 2 has a sequence here that nothing reads
//	crc      4 bytes  CRC-32C of what is in front of it
//	frames, each: length 4 bytes, CRC-32C of the data 4 bytes, data
const (
	oldMagic    = "cgdecs\x00"
	oldVersion2 = 2
	oldVersion3 = 3

	oldHeaderLen   = 44
	oldFrameHeader = 8
)

func isOldHeader(b []byte) bool {
	return len(b) >= len(oldMagic) && string(b[:len(oldMagic)]) == oldMagic
}

// decodeOldHeader reads a header of the old format. A segment of another journal is an error.
func decodeOldHeader(b []byte, id Identity) (Header, error) {
	if len(b) < oldHeaderLen {
		return Header{}, ErrBadHeader
	}
	le, version := binary.LittleEndian, b[len(oldMagic)]
	h := Header{Index: le.Uint64(b[8:]), PrevIndex: le.Uint64(b[16:]), PrevEnd: int64(le.Uint64(b[24:])), Epoch: le.Uint64(b[32:])} //nolint:gosec // as written
	switch {
	case le.Uint32(b[40:]) != crc32.Checksum(b[:40], castagnoli):
		return h, ErrBadHeader
	case version != oldVersion2 && version != oldVersion3:
		return h, fmt.Errorf("version %d of the previous format", version)
	case version == oldVersion3 && h.Epoch != id.Epoch:
		return h, errForeign
	}
	return h, nil
}

// oldFrame reads a frame of the old format and returns its size in the file.
func (w *Window) oldFrame(off int64) (data []byte, size int64, err error) {
	b, err := w.at(off, oldFrameHeader)
	if err != nil || len(b) < oldFrameHeader {
		return nil, 0, errors.Join(errFrame, err)
	}
	n, sum := int64(binary.LittleEndian.Uint32(b)), binary.LittleEndian.Uint32(b[4:])
	if size = oldFrameHeader + n; size > w.Limit-off {
		return nil, 0, errFrame
	}
	if b, err = w.at(off, int(size)); err != nil || int64(len(b)) < size {
		return nil, 0, errors.Join(errFrame, err)
	}
	if data = b[oldFrameHeader:]; crc32.Checksum(data, castagnoli) != sum {
		return nil, size, errFrame
	}
	return data, size, nil
}
