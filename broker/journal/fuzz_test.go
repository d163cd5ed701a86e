package journal

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"

	"cellgate/broker/wal"
	"cellgate/test/check"
)

// putCRC corrects the checksum of the segment header at the start of b.
func putCRC(b []byte) {
	binary.LittleEndian.PutUint32(b[92:], crc32.Checksum(b[:92], crc32.MakeTable(crc32.Castagnoli)))
}

// FuzzRecovery damages one file of a journal arbitrarily and corrects the checksums of its headers, so that wild values
// pass them. There must be no panic, no endless loop, and no record that was not written.
func FuzzRecovery(f *testing.F) {
	img, _, last := makeImage(f)
	names := img.segments()
	f.Add(uint8(0), uint16(0), []byte{}, true)
	f.Add(uint8(1), uint16(48), []byte{1, 2, 3, 4, 5, 6, 7, 8}, true)
	f.Add(uint8(2), uint16(wal.SegmentStart+8), []byte{0xff, 0xff, 0xff, 0xff}, false)
	f.Add(uint8(len(names)-1), uint16(64), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, true)
	f.Fuzz(func(t *testing.T, file uint8, off uint16, data []byte, repair bool) {
		damaged := image{}
		for name, b := range img {
			damaged[name] = b
		}
		name := names[int(file)%len(names)]
		b := slices.Clone(img[name])
		copy(b[int(off)%len(b):], data)
		if repair {
			copy(b[wal.PageLen:], b[:wal.HeaderLen])
			for page := 0; page < wal.SegmentStart; page += wal.PageLen {
				putCRC(b[page:])
			}
			repairBatch(b, int(off)%len(b))
		}
		damaged[name] = b
		m := damaged.fs()
		if _, err := inspect(m, imageDir, true); err != nil {
			return // for example a later version
		}
		j, _, err := Open(imageOptions(m))
		if err != nil {
			return
		}
		defer func() { _ = j.Close(context.Background()) }()
		r, err := j.NewReader(0)
		check.OK(t, err)
		defer func() { _ = r.Close() }()
		for before := uint64(0); ; {
			batch, ok, err := r.TryNext(0)
			if err != nil || !ok {
				return
			}
			if batch.First <= before || batch.Last < batch.First {
				t.Fatalf("batch %d to %d after %d", batch.First, batch.Last, before)
			}
			before = batch.Last
			for i := range batch.Records {
				if seq := batch.Records[i].Seq; !repair && seq <= last {
					check.OK(t, checkRecord(&batch.Records[i], int(seq)))
				}
			}
		}
	})
}

// repairBatch corrects the checksum of the batch that holds off, as far as its length allows.
func repairBatch(b []byte, off int) {
	h, err := wal.DecodeHeader(b)
	if err != nil {
		return
	}
	for at := wal.SegmentStart; at+wal.BatchHeaderLen <= len(b); {
		length := int64(binary.LittleEndian.Uint32(b[at+8:]))
		size := wal.BatchSize(length)
		if int64(at)+size > int64(len(b)) {
			return
		}
		if off < at+int(size) {
			body := b[at+wal.BatchHeaderLen : at+int(size)]
			binary.LittleEndian.PutUint32(b[at+4:], wal.Checksum(h.Salt, body))
			binary.LittleEndian.PutUint32(b[at:], wal.Checksum(h.Salt, b[at+4:at+wal.BatchHeaderLen]))
			return
		}
		at += int(size)
	}
}
