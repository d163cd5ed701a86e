package command

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"cellgate/broker/shared/statefile"
)

// The state file, in top-level buckets. All numbers are 8 bytes, big-endian.
//
//	commands/
//	  meta     seq → record (JSON)
//	  payload  seq → payload as it is sent
//	  props    seq → its properties (JSON), if any
//	  result   seq → payload of the vehicle's last report
//	  ids      id → seq
//	  open     seq → ""             commands that are not final
//	  done     finished, seq → ""   final ones, for retention
//	  format   = 1                  (a key, not a bucket)
//	  epoch    random               (a key) made with the file; of the event numbers before those of epochs
//	  epochs   [from, random]…      (a key) each start's epoch, of the event numbers from its first on
//	command-responses/
//	  n → outcome (JSON)            waiting to be published on its response topic
//	command-positions/
//	  partition of vehicle.commands → position of its consumer, in the consumer's format
//	command-events/
//	  n → event                     waiting for Kafka; n rises and is never reused
//
// An event is the VIN's length (1 byte), the VIN, and the value of the Kafka record.
const format = 1

var (
	bucketCommands = []byte("commands")
	bucketEvents   = []byte("command-events")
	bucketAnswers  = []byte("command-responses")
	// bucketPositions is written in the transactions of the commands that were read.
	bucketPositions = []byte("command-positions")
	bucketProps     = []byte("props")
	bucketMeta      = []byte("meta")
	bucketPayload   = []byte("payload")
	bucketResult    = []byte("result")
	bucketIDs       = []byte("ids")
	bucketOpen      = []byte("open")
	bucketDone      = []byte("done")
	keyFormat       = []byte("format")
	keyEpoch        = []byte("epoch")
	keyEpochs       = []byte("epochs")
)

// tables are the buckets of one transaction. They are looked up when they are used: most transactions use few of them.
type tables struct {
	tx *statefile.Tx
	// changed are the commands that were written or forgotten, for the index.
	changed []changed
}

// changed is a command and its state, "" for one that was forgotten.
type changed struct {
	seq   uint64
	vin   string
	state State
}

func tablesOf(tx *statefile.Tx) *tables { return &tables{tx: tx} }

func (t *tables) of(name []byte) *statefile.Bucket { return t.tx.Bucket(bucketCommands).Bucket(name) }

func (t *tables) meta() *statefile.Bucket      { return t.of(bucketMeta) }
func (t *tables) payload() *statefile.Bucket   { return t.of(bucketPayload) }
func (t *tables) props() *statefile.Bucket     { return t.of(bucketProps) }
func (t *tables) result() *statefile.Bucket    { return t.of(bucketResult) }
func (t *tables) ids() *statefile.Bucket       { return t.of(bucketIDs) }
func (t *tables) open() *statefile.Bucket      { return t.of(bucketOpen) }
func (t *tables) done() *statefile.Bucket      { return t.of(bucketDone) }
func (t *tables) events() *statefile.Bucket    { return t.tx.Bucket(bucketEvents) }
func (t *tables) answers() *statefile.Bucket   { return t.tx.Bucket(bucketAnswers) }
func (t *tables) positions() *statefile.Bucket { return t.tx.Bucket(bucketPositions) }

// createTables creates the buckets and refuses the format of a later version.
func createTables(tx *statefile.Tx) error {
	c, err := tx.CreateBucketIfNotExists(bucketCommands)
	if err != nil {
		return fmt.Errorf("creating the command store: %w", err)
	}
	switch v := c.Get(keyFormat); {
	case v == nil:
		if err := c.Put(keyFormat, key(format)); err != nil {
			return fmt.Errorf("creating the command store: %w", err)
		}
	case number(v) != format:
		return fmt.Errorf("the command store has format %d, this version reads %d: start the version that wrote it", number(v), format)
	}
	if c.Get(keyEpoch) == nil {
		var epoch [8]byte
		_, _ = rand.Read(epoch[:]) // never fails
		if err := c.Put(keyEpoch, epoch[:]); err != nil {
			return fmt.Errorf("creating the command store: %w", err)
		}
	}
	for _, name := range [][]byte{bucketMeta, bucketPayload, bucketProps, bucketResult, bucketIDs, bucketOpen, bucketDone} {
		if _, err := c.CreateBucketIfNotExists(name); err != nil {
			return fmt.Errorf("creating the command store: %w", err)
		}
	}
	for _, name := range [][]byte{bucketEvents, bucketAnswers, bucketPositions} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return fmt.Errorf("creating the command store: %w", err)
		}
	}
	return beginEpoch(tx)
}

// beginEpoch gives the events from now on an epoch of their own. A state file that is put back from a copy counts on from
// the copy's last number, and those numbers have been given to other events. Epochs without waiting events are forgotten.
func beginEpoch(tx *statefile.Tx) error {
	c, events := tx.Bucket(bucketCommands), tx.Bucket(bucketEvents)
	from, err := events.NextSequence()
	if err != nil {
		return fmt.Errorf("beginning an epoch of events: %w", err)
	}
	known, oldest := c.Get(keyEpochs), from
	if k, _ := events.Cursor().First(); k != nil {
		oldest = number(k)
	}
	for len(known) >= 2*epochBytes && number(known[epochBytes:]) <= oldest {
		known = known[epochBytes:]
	}
	epochs := append(bytes.Clone(known), key(from)...)
	var epoch [8]byte
	_, _ = rand.Read(epoch[:]) // never fails
	if err := c.Put(keyEpochs, append(epochs, epoch[:]...)); err != nil {
		return fmt.Errorf("beginning an epoch of events: %w", err)
	}
	return nil
}

// epochBytes is the size of an entry of keyEpochs: the first number, the epoch.
const epochBytes = 16

// epochOf returns the epoch of an event's number.
func epochOf(tx *statefile.Tx, n uint64) uint64 {
	c := tx.Bucket(bucketCommands)
	epoch := number(c.Get(keyEpoch))
	for all := c.Get(keyEpochs); len(all) >= epochBytes && number(all) <= n; all = all[epochBytes:] {
		epoch = number(all[8:])
	}
	return epoch
}

func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// doneKey orders final commands by when they ended.
func doneKey(finished int64, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(key(uint64(finished)), seq)
}

// number decodes a key. A short key, which no version writes, is 0.
func number(k []byte) uint64 {
	if len(k) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(k)
}

// bySeq loads a command, nil if it does not exist.
func (t *tables) bySeq(seq uint64) (*record, error) {
	v := t.meta().Get(key(seq))
	if v == nil {
		return nil, nil
	}
	r := &record{}
	if err := json.Unmarshal(v, r); err != nil {
		return nil, fmt.Errorf("command %d is not readable: %w", seq, err)
	}
	r.Seq = seq
	return r, nil
}

// byID loads a command, nil if it does not exist.
func (t *tables) byID(id string) (*record, error) {
	seq := t.ids().Get([]byte(id))
	if seq == nil {
		return nil, nil
	}
	return t.bySeq(number(seq))
}

// put writes r and indexes it as open or final.
func (t *tables) put(r *record) error {
	v, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding command %s: %w", r.ID, err)
	}
	k := key(r.Seq)
	if err := t.meta().Put(k, v); err != nil {
		return fmt.Errorf("writing command %s: %w", r.ID, err)
	}
	t.changed = append(t.changed, changed{r.Seq, r.VIN, r.State})
	if !r.State.Final() {
		return t.open().Put(k, []byte{})
	}
	if err := t.open().Delete(k); err != nil {
		return fmt.Errorf("writing command %s: %w", r.ID, err)
	}
	return t.done().Put(doneKey(r.done(), r.Seq), []byte{})
}

func (t *tables) forget(r *record) error {
	k := key(r.Seq)
	for _, del := range []func() error{
		func() error { return t.meta().Delete(k) },
		func() error { return t.payload().Delete(k) },
		func() error { return t.props().Delete(k) },
		func() error { return t.result().Delete(k) },
		func() error { return t.ids().Delete([]byte(r.ID)) },
	} {
		if err := del(); err != nil {
			return fmt.Errorf("forgetting command %s: %w", r.ID, err)
		}
	}
	t.changed = append(t.changed, changed{seq: r.Seq})
	return nil
}

// view returns r as the API shows it.
func (t *tables) view(r *record) Command {
	k := key(r.Seq)
	return r.view(t.payload().Get(k), t.result().Get(k))
}

// Filter selects commands for List. Zero fields select all.
type Filter struct {
	State State
	VIN   string
	ID    string
	// Limit is the page length, 1 to MaxPage; 0 means defaultPage.
	Limit int
	// Cursor is the one that the previous page returned, empty for the first page.
	Cursor string
}

// errCursor means that a cursor did not come from a list.
var errCursor = errors.New("no list has returned it")

// Bounds of a page.
const (
	defaultPage = 100
	MaxPage     = 1000
)

const cursorBase = 36

// before returns the sequence below which the page of a filter begins.
func (f *Filter) before() (uint64, error) {
	if f.Cursor == "" {
		return math.MaxUint64, nil
	}
	before, err := strconv.ParseUint(f.Cursor, cursorBase, 64)
	if err != nil || before == 0 {
		return 0, fmt.Errorf("cursor=%s: %w", f.Cursor, errCursor)
	}
	return before, nil
}

// list adds to page those of the commands that match, in their order. A command may have changed since it was found.
func (t *tables) list(page []Command, f *Filter, found []uint64) ([]Command, error) {
	for _, seq := range found {
		r, err := t.bySeq(seq)
		if err != nil {
			return nil, err
		}
		if r != nil && f.admits(r) {
			page = append(page, t.view(r))
		}
	}
	return page, nil
}

func (f *Filter) admits(r *record) bool {
	return (f.State == "" || r.State == f.State) && (f.VIN == "" || r.VIN == f.VIN)
}
