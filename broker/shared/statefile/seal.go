package statefile

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// The file's content, on top of bbolt's format:
//
//	any bucket, any key -> value, CRC-32C (4 bytes, big-endian): over key and value, seeded with that of the path
//	                       combined by exclusive or with the key's size
//	"checksums"         -> the package's own bucket:
//	  00              -> format (1 byte), sealed like any value
//	  path            -> digest of the bucket of that path: number of keys, sum of their hashes, sequence (8 bytes each,
//	                     big-endian), sealed like any value
//
// A path is, for each bucket from the outermost, its name's length (uvarint) and its name. A digest counts only values;
// the existence of a bucket is recorded by its digest.
const (
	format       = 1
	reservedName = "checksums"
	sealSize     = 4
	digestSize   = 24
)

// ErrDamaged is wrapped by every error that a damaged state file causes.
var ErrDamaged = errors.New("state file damaged")

// remedy ends every message about damage.
const remedy = "stop the gateway and check the disk; restore data_dir from a backup, or have `cellgate repair` move this file away " +
	"to start without the sessions, commands and positions in it"

func damage(file, what string, args ...any) error {
	return fmt.Errorf("%s: %w: %s; %s", file, ErrDamaged, fmt.Sprintf(what, args...), remedy)
}

// formatKey is the key of the format; no path begins with 0.
func formatKey() []byte { return []byte{0} }

// appendPath appends a bucket to its parent's path.
func appendPath(parent string, name []byte) string {
	b := binary.AppendUvarint([]byte(parent), uint64(len(name)))
	return string(append(b, name...))
}

// showPath formats a path for messages.
func showPath(path string) string {
	var names []string
	for b := []byte(path); len(b) > 0; {
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			return hex.EncodeToString([]byte(path))
		}
		names = append(names, string(b[used:used+int(n)])) //nolint:gosec // at most len(b)
		b = b[used+int(n):]                                //nolint:gosec // as above
	}
	return fmt.Sprintf("%q", strings.Join(names, "/"))
}

// castagnoli returns the table of CRC-32C (RFC 3720, appendix B.4); the library makes it once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// seed returns the seed of the checksums of a bucket's values.
func seed(path string) uint32 { return crc32.Checksum([]byte(path), castagnoli()) }

func checksum(seed uint32, key, value []byte) uint32 {
	t := castagnoli()
	return crc32.Update(crc32.Update(seed^uint32(len(key)), t, key), t, value) //nolint:gosec // at most MaxKeySize
}

// seal copies a value and appends its checksum. It must be a copy: bbolt keeps it until the commit.
func seal(seed uint32, key, value []byte) []byte {
	dst := make([]byte, 0, len(value)+sealSize)
	return binary.BigEndian.AppendUint32(append(dst, value...), checksum(seed, key, value))
}

// unseal removes the checksum and reports whether it was right.
func unseal(seed uint32, key, sealed []byte) (value []byte, ok bool) {
	n := len(sealed) - sealSize
	if n < 0 || binary.BigEndian.Uint32(sealed[n:]) != checksum(seed, key, sealed[:n]) {
		return nil, false
	}
	return sealed[:n:n], true
}

// digest summarises a bucket's content, independent of order.
type digest struct {
	keys     uint64
	sum      uint64
	sequence uint64
}

// entry is the hash of one key and its sealed value.
func entry(key, sealed []byte) uint64 {
	return xxhash.Sum64(sealed) ^ bits.RotateLeft64(xxhash.Sum64(key), 32)
}

func (d *digest) add(hash uint64)    { d.keys, d.sum = d.keys+1, d.sum+hash }
func (d *digest) remove(hash uint64) { d.keys, d.sum = d.keys-1, d.sum-hash }

func (d *digest) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, digestSize), d.keys)
	b = binary.BigEndian.AppendUint64(b, d.sum)
	return binary.BigEndian.AppendUint64(b, d.sequence)
}

func decodeDigest(b []byte) (d digest, ok bool) {
	if len(b) != digestSize {
		return digest{}, false
	}
	return digest{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, true
}
