package session

import (
	"encoding/binary"
	"path/filepath"
	"testing"

	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// BenchmarkCommit writes batches as the writer does, into a file of 20,000 queued messages of 300 bytes: 100 new ones
// and the removal of the 100 oldest. It does not sync, so it measures CPU only.
func BenchmarkCommit(b *testing.B) {
	db, err := openDB(filepath.Join(b.TempDir(), "state.db"))
	check.OK(b, err)
	defer db.Close() //nolint:errcheck // the end of the benchmark
	check.OK(b, db.Update(func(tx *statefile.Tx) error { return createBuckets(tx, "") }))
	const changes, held = 100, 20_000
	key := func(n uint64) []byte {
		return queueKey("LTEST"+string(binary.BigEndian.AppendUint32(nil, uint32(n*2654435761)%1000)), n) //nolint:gosec // any client
	}
	commit := func(from, n uint64) {
		batch := &batch{last: true, mark: mark{fanned: from}}
		for i := from; i < from+n; i++ {
			batch.put(bucketQueue, key(i), make([]byte, 300, 364)) // as much room as entry.encode leaves
			if i >= held {
				batch.remove(bucketQueue, key(i-held))
			}
		}
		check.OK(b, db.Update(func(tx *statefile.Tx) error { return batch.write(tx, 1) }))
	}
	commit(0, held)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range uint64(b.N) { //nolint:gosec // not negative
		commit(held+i*changes, changes)
	}
}
