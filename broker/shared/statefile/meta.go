package statefile

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
)

// bbolt's file, as of its version 2, in the byte order of the machine:
//
//	page    id 8, flags 2, count 2, further pages 4, then by flags:
//	meta    magic 4, version 4, page size 4, flags 4, root bucket 16, free list 8, pages in use 8,
//	        transaction 8, FNV-1a 64 of those 8. Page 0 and 1, by turns.
//	branch  per child: place of the key from here 4, its size 4, page 8
//	leaf    per key:   flags 4 (1: a bucket), place of the key from here 4, its size 4, size of the value 4
//	bucket  (a value)  root page 8, sequence 8; root page 0: a leaf page follows, the whole bucket
//
// A commit writes the changed pages again, syncs, writes the meta page that is not in use, and syncs. So at any
// time the meta page with the higher transaction is the last commit and the other one that before it; a write that
// a power loss tore leaves one that has no right checksum.
const (
	pageSize       = 4096
	pageHeader     = 16
	elementSize    = 16
	bucketHeader   = 16
	metaSize       = 64
	metaSum        = metaSize - 8
	metaMagic      = 0xED0CDAED
	metaVersion    = 2
	noFreelist     = ^uint64(0)
	flagBranch     = 0x01
	flagLeaf       = 0x02
	firstPage      = 2 // after the meta pages
	leafBucketFlag = 1
)

// meta is a meta page with a valid checksum.
type meta struct {
	root     uint64
	freelist uint64
	pages    uint64
	tx       uint64
}

func parseMeta(b []byte) (m meta, ok bool) {
	ne := binary.NativeEndian
	if ne.Uint32(b) != metaMagic || ne.Uint32(b[4:]) != metaVersion || ne.Uint64(b[metaSum:]) != sumMeta(b) {
		return meta{}, false
	}
	return meta{root: ne.Uint64(b[16:]), freelist: ne.Uint64(b[32:]), pages: ne.Uint64(b[40:]), tx: ne.Uint64(b[48:])},
		ne.Uint32(b[8:]) == pageSize
}

func sumMeta(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b[:metaSum])
	return h.Sum64()
}

// bitFlipped reports whether a meta page with a wrong checksum is valid except for one flipped bit. The odds that a
// torn write looks like that are 512 in 2^64.
func bitFlipped(b []byte) bool {
	for bit := range metaSize * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		_, ok := parseMeta(b)
		b[bit/8] ^= 1 << (bit % 8)
		if ok {
			return true
		}
	}
	return false
}

var (
	errNoMeta = errors.New("neither of its two meta pages can be read")
	errFlip   = errors.New("a bit of a meta page has flipped")
	errTurn   = errors.New("its meta pages are not of two consecutive transactions")
	errShort  = errors.New("the file ends within its meta pages")
)

// readMeta returns the meta page in use and reports whether the other one is unreadable.
func readMeta(data []byte) (m meta, fellBack bool, err error) {
	if len(data) < pageSize+pageHeader+metaSize {
		return meta{}, false, errShort
	}
	var found [2]meta
	var ok [2]bool
	for i := range found {
		var b [metaSize]byte // bitFlipped changes it
		copy(b[:], data[i*pageSize+pageHeader:])
		found[i], ok[i] = parseMeta(b[:])
		if ok[i] && found[i].tx%2 != uint64(i) { //nolint:gosec // 0 or 1
			return meta{}, false, errTurn
		}
		if !ok[i] && bitFlipped(b[:]) {
			return meta{}, false, errFlip
		}
	}
	switch a, b := found[0], found[1]; {
	case !ok[0] && !ok[1]:
		return meta{}, false, errNoMeta
	case !ok[1]:
		return a, true, nil
	case !ok[0]:
		return b, true, nil
	case a.tx == b.tx+1:
		return a, false, nil
	case b.tx == a.tx+1:
		return b, false, nil
	default:
		return meta{}, false, errTurn
	}
}
