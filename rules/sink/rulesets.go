package sink

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/rules/engine"
	"cellgate/rules/lang"
)

// evaluator decides. It must get the records of a VIN in journal order, and one goroutine at a time may evaluate a
// shard.
type evaluator interface {
	renderer
	Eval(rec *message.Record, out []engine.Decision) []engine.Decision
	engine.Counter
}

// compiler compiles a stored source.
type compiler func(source []byte) (*ruleSet, error)

// errNoRules means that a rule set's source is not stored.
var errNoRules = errors.New("rule set is not stored")

// setEntry puts a rule set in force from a sequence on. Decisions refer to it by index, because a set may be in force
// twice.
type setEntry struct {
	Index uint32 `json:"index"`
	Hash  string `json:"hash"`
	From  uint64 `json:"from"`
}

// ruleSets keeps every rule set that a decision still refers to: the table of indexes, and the sources by hash in the
// database.
type ruleSets struct {
	db      *statefile.DB
	compile compiler

	mu       sync.Mutex
	table    []setEntry          // by index
	compiled map[string]*ruleSet // by hash
	// announced are hashes in the journal that the evaluator has not reached.
	announced []string
	// entered are those reached since the last stored checkpoint, which may still list them as announced.
	entered []string
}

// get returns the set at an index.
func (s *ruleSets) get(index uint32) (*ruleSet, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.table {
		if e.Index == index {
			return s.byHashLocked(e.Hash)
		}
	}
	return nil, fmt.Errorf("%w: index %d", errNoRules, index)
}

// byHashLocked returns a stored set, compiled on first use.
func (s *ruleSets) byHashLocked(hash string) (*ruleSet, error) {
	if set := s.compiled[hash]; set != nil {
		return set, nil
	}
	source, err := s.read(hash)
	if err != nil {
		return nil, err
	}
	set, err := s.compile(source)
	if err != nil {
		return nil, fmt.Errorf("rule set %s: %w", hash, err)
	}
	s.compiled[hash] = set
	return set, nil
}

// newest returns the hash announced last and not reached yet, "" if there is none.
func (s *ruleSets) newest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.announced); n > 0 {
		return s.announced[n-1]
	}
	return ""
}

// read returns the stored form of a source.
func (s *ruleSets) read(hash string) (source []byte, err error) {
	err = s.db.View(func(tx *statefile.Tx) error {
		source = slices.Clone(tx.Bucket(bucketDispatch).Bucket(bucketSources).Get([]byte(hash)))
		return nil
	})
	if err == nil && source == nil {
		err = errNoRules
	}
	if err != nil {
		return nil, fmt.Errorf("rule set %s: %w", hash, err)
	}
	return source, nil
}

func (s *ruleSets) source(hash string) (*lang.Source, error) {
	b, err := s.read(hash)
	if err != nil {
		return nil, err
	}
	return lang.UnmarshalSource(b)
}

// enter puts the set of a hash in force from seq on, and returns it with its index.
func (s *ruleSets) enter(hash string, seq uint64) (*ruleSet, uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set, err := s.byHashLocked(hash)
	if err != nil {
		return nil, 0, err
	}
	var index uint32
	if n := len(s.table); n > 0 {
		index = s.table[n-1].Index + 1
	}
	s.table = append(s.table, setEntry{Index: index, Hash: hash, From: seq})
	if i := slices.Index(s.announced, hash); i >= 0 {
		s.announced = slices.Delete(s.announced, i, i+1)
		s.entered = append(s.entered, hash)
	}
	return set, index, nil
}

// announce stores a source and its hash until a checkpoint is past the place where the evaluator reaches it.
func (s *ruleSets) announce(set *ruleSet, source []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.db.Update(func(tx *statefile.Tx) error {
		b := tx.Bucket(bucketDispatch)
		var announced []string
		if err := getJSON(b, keyAnnounced, &announced); err != nil {
			return err
		}
		return errors.Join(
			b.Bucket(bucketSources).Put([]byte(set.hash), source),
			putJSON(b, keyAnnounced, append(announced, set.hash)),
			b.Put(keyApplying, []byte(set.hash)),
		)
	})
	if err != nil {
		return fmt.Errorf("store rule set: %w", err)
	}
	s.announced = append(s.announced, set.hash)
	s.compiled[set.hash] = set
	return nil
}

// forget drops table entries that every cursor has passed, except from index keep on, in memory; the checkpoint stores
// the table.
func (s *ruleSets) forget(cursor uint64, keep uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.table) > 1 && s.table[1].From <= cursor+1 && s.table[0].Index < keep {
		s.table = s.table[1:]
	}
	for hash := range s.compiled {
		if !s.neededLocked(hash) {
			delete(s.compiled, hash)
		}
	}
}

func (s *ruleSets) neededLocked(hash string) bool {
	return slices.Contains(s.announced, hash) ||
		slices.ContainsFunc(s.table, func(e setEntry) bool { return e.Hash == hash })
}

// snapshot returns the current table and the entered hashes.
func (s *ruleSets) snapshot() (table []setEntry, entered []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.table), slices.Clone(s.entered)
}

// stored records that a checkpoint with the first n of entered is stored.
func (s *ruleSets) stored(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entered = slices.Delete(s.entered, 0, n)
}

// save writes the table of a checkpoint and removes unreferenced sources. Sets entered when the checkpoint was captured
// are in the table and no longer announced. Those entered or announced since are after the checkpoint's position and
// stay.
func (s *ruleSets) save(b *statefile.Bucket, table []setEntry, entered []string, applied string) error {
	var announced []string
	if err := getJSON(b, keyAnnounced, &announced); err != nil {
		return err
	}
	for _, hash := range entered {
		if i := slices.Index(announced, hash); i >= 0 {
			announced = slices.Delete(announced, i, i+1)
		}
	}
	if err := putJSON(b, keyTable, table); err != nil {
		return err
	}
	if err := putJSON(b, keyAnnounced, announced); err != nil {
		return err
	}
	needed := append(announced, applied)
	for _, e := range table {
		needed = append(needed, e.Hash)
	}
	sources := b.Bucket(bucketSources)
	var stale [][]byte
	err := sources.ForEach(func(k, _ []byte) error {
		if !slices.Contains(needed, string(k)) {
			stale = append(stale, slices.Clone(k))
		}
		return nil
	})
	for _, k := range stale {
		err = errors.Join(err, sources.Delete(k))
	}
	return err
}

// load reads the table.
func (s *ruleSets) load(b *statefile.Bucket) error {
	return errors.Join(getJSON(b, keyTable, &s.table), getJSON(b, keyAnnounced, &s.announced))
}

func putJSON(b *statefile.Bucket, key []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return b.Put(key, data)
}

func getJSON(b *statefile.Bucket, key []byte, v any) error {
	data := b.Get(key)
	if data == nil {
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("dispatch state %s: %w", key, err)
	}
	return nil
}

func putUint(b *statefile.Bucket, key []byte, v uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, v))
}

func getUint(b *statefile.Bucket, key []byte) uint64 {
	data := b.Get(key)
	if len(data) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(data)
}
