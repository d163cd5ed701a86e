//go:build bench

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/bbolt"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/test/parts"
)

var (
	appendSpan   = flag.Duration("append-span", time.Second, "length of one measurement of durable appends")
	appendRounds = flag.Int("append-rounds", 3, "alternating rounds of the comparison of durable appends")
)

// appended is the payload of a record in bytes.
const appended = 256

// log is a durable log for producers that each wait for their own record: append returns when it is on disk.
type log interface {
	append(producer int) error
	io.Closer
}

// contender opens a log for a number of producers.
type contender struct {
	name string
	open func(dir string, records [][]message.Record) (log, error)
}

// contenders are the journal, Pebble with its defaults and every write synced, and bbolt with Batch, which puts the
// writes of producers that wait at the same time into one transaction, or with Update for a single producer, whom Batch
// would only delay.
func contenders() []contender {
	return []contender{{"journal", openJournal}, {"Pebble", openPebble}, {"bbolt", openBolt}}
}

// TestJournalAppends compares durable appends per second of producers that each wait for the fsync of their own record,
// in alternating rounds: the journal, Pebble and bbolt, on the same disk. The product (bbolt) and its tests (Pebble)
// require both anyway.
func TestJournalAppends(t *testing.T) {
	out := table{
		Title: fmt.Sprintf("durable appends, records of %d B, each producer waits for its own fsync, medians of %d alternating rounds of %v",
			appended, *appendRounds, *appendSpan),
		Columns: []string{"producers", "log", "appends/s", "payload MB/s", "× journal"},
	}
	for _, producers := range []int{1, 64, 2000} {
		all := contenders()
		got := make([][]float64, len(all))
		logs := make([]log, len(all))
		for i, c := range all {
			var err error
			if logs[i], err = c.open(t.TempDir(), recordsOf(producers)); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		for range *appendRounds {
			for i, c := range all {
				n, err := appendFor(logs[i], producers, *appendSpan)
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				got[i] = append(got[i], n)
			}
		}
		for i, c := range all {
			rate := middle(got[i], func(v float64) float64 { return v })
			first := middle(got[0], func(v float64) float64 { return v })
			out.row(producers, c.name, fmt.Sprintf("%.0f", rate), fmt.Sprintf("%.2f", rate*appended/1e6), fmt.Sprintf("%.2f", rate/first))
			if err := logs[i].Close(); err != nil {
				t.Errorf("close %s: %v", c.name, err)
			}
		}
	}
	summary.add(out)
}

// appendFor has every producer append one record after another for d and returns appends per second.
func appendFor(l log, producers int, d time.Duration) (float64, error) {
	var total atomic.Int64
	errs := make([]error, producers)
	begin := time.Now()
	end := begin.Add(d)
	var all sync.WaitGroup
	for p := range producers {
		all.Go(func() {
			for time.Now().Before(end) {
				if errs[p] = l.append(p); errs[p] != nil {
					return
				}
				total.Add(1)
			}
		})
	}
	all.Wait()
	return float64(total.Load()) / time.Since(begin).Seconds(), errors.Join(errs...)
}

func recordsOf(producers int) [][]message.Record {
	out := make([][]message.Record, producers)
	for i := range out {
		vin := VIN(i)
		out[i] = []message.Record{{
			Kind: message.KindPublish, QoS: 1, PacketID: 77, Client: vin, Topic: "v1/" + vin + "/up/telemetry", Payload: make([]byte, appended),
		}}
	}
	return out
}

type journalLog struct {
	j       *journal.Journal
	records [][]message.Record
}

func openJournal(dir string, records [][]message.Record) (log, error) {
	j, _, err := journal.Open(parts.Journal(dir))
	if err != nil {
		return nil, err
	}
	j.Retain("none", 1<<62) // no reader: segments are recycled
	return journalLog{j, records}, nil
}

func (l journalLog) append(p int) error {
	seq, err := l.j.Append(l.records[p], nil)
	if err != nil {
		return err
	}
	return l.j.WaitDurable(context.Background(), seq)
}

func (l journalLog) Close() error { return l.j.Close(context.Background()) }

// keyed numbers records and encodes them as the journal does.
type keyed struct {
	next    atomic.Uint64
	records [][]message.Record
}

func (k *keyed) record(p int) (key [8]byte, value []byte) {
	binary.BigEndian.PutUint64(key[:], k.next.Add(1))
	return key, k.records[p][0].Append(make([]byte, 0, 2*appended), 0)
}

type pebbleLog struct {
	keyed
	db *pebble.DB
}

func openPebble(dir string, records [][]message.Record) (log, error) {
	db, err := pebble.Open(dir, &pebble.Options{Logger: silent{}})
	if err != nil {
		return nil, err
	}
	return &pebbleLog{keyed: keyed{records: records}, db: db}, nil
}

func (l *pebbleLog) append(p int) error {
	key, value := l.record(p)
	return l.db.Set(key[:], value, pebble.Sync)
}

func (l *pebbleLog) Close() error { return l.db.Close() }

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}

type boltLog struct {
	keyed
	db    *bbolt.DB
	write func(func(*bbolt.Tx) error) error
}

var bucketLog = []byte("log")

func openBolt(dir string, records [][]message.Record) (log, error) {
	db, err := bbolt.Open(filepath.Join(dir, "log.db"), 0o600, nil)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucketLog)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	l := &boltLog{keyed: keyed{records: records}, db: db, write: db.Batch}
	if len(records) == 1 {
		l.write = db.Update
	}
	return l, nil
}

func (l *boltLog) append(p int) error {
	key, value := l.record(p)
	return l.write(func(tx *bbolt.Tx) error { return tx.Bucket(bucketLog).Put(key[:], value) })
}

func (l *boltLog) Close() error { return l.db.Close() }
