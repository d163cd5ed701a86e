package statefile

import (
	"bytes"
	"encoding/hex"

	"go.etcd.io/bbolt"
)

// Tx is a transaction. It must be used by one goroutine.
type Tx struct {
	db      *DB
	bolt    *bbolt.Tx
	buckets map[string]*Bucket // top-level buckets
	dirty   []*Bucket          // with a changed digest
	checks  *Bucket
	// Classifies a panic: bbolt's own while inBolt, this package's with damage, else the caller's.
	inBolt bool
	damage error
}

// rescue turns a panic of bbolt or of fail into the transaction's error. It is deferred. A caller's panic passes
// through.
func (tx *Tx) rescue(err *error) {
	if !tx.inBolt && tx.damage == nil {
		return
	}
	p := recover()
	switch {
	case p == nil:
	case tx.damage != nil && !tx.inBolt:
		*err = tx.damage
	default:
		broken := damage(tx.db.file, "a transaction broke off: %v", p)
		*err = broken
		if tx.db.broken.CompareAndSwap(nil, &broken) && tx.db.onFatal != nil {
			tx.db.onFatal(broken)
		}
	}
}

// fail ends the transaction. It panics, so that no caller continues with a missing value.
func (tx *Tx) fail(what string, args ...any) {
	tx.damage = damage(tx.db.file, what, args...)
	panic(tx.damage)
}

// ID returns the transaction's number.
func (tx *Tx) ID() int { return tx.bolt.ID() }

// Bucket returns a top-level bucket, nil if it does not exist.
func (tx *Tx) Bucket(name []byte) *Bucket {
	if b := tx.buckets[string(name)]; b != nil {
		return b
	}
	if string(name) == reservedName {
		return nil
	}
	tx.inBolt = true
	found := tx.bolt.Bucket(name)
	tx.inBolt = false
	return tx.enter(&tx.buckets, "", name, found)
}

// CreateBucketIfNotExists returns a top-level bucket and creates it if necessary. The name "checksums" is reserved.
func (tx *Tx) CreateBucketIfNotExists(name []byte) (*Bucket, error) {
	if b := tx.Bucket(name); b != nil {
		return b, nil
	}
	tx.inBolt = true
	made, err := tx.bolt.CreateBucket(name)
	tx.inBolt = false
	if err != nil {
		return nil, err
	}
	return tx.enter(&tx.buckets, "", name, made).begin(), nil
}

// enter remembers a bucket for the rest of the transaction, so that it has one digest.
func (tx *Tx) enter(siblings *map[string]*Bucket, parent string, name []byte, found *bbolt.Bucket) *Bucket {
	if found == nil {
		return nil
	}
	path := appendPath(parent, name)
	b := &Bucket{tx: tx, bolt: found, path: path, seed: seed(path)}
	if *siblings == nil {
		*siblings = map[string]*Bucket{}
	}
	(*siblings)[string(name)] = b
	return b
}

// checksums returns the package's own bucket.
func (tx *Tx) checksums() *Bucket {
	if tx.checks != nil {
		return tx.checks
	}
	tx.inBolt = true
	found := tx.bolt.Bucket([]byte(reservedName))
	tx.inBolt = false
	if found == nil {
		tx.fail("its checksums are missing")
	}
	path := appendPath("", []byte(reservedName))
	tx.checks = &Bucket{tx: tx, bolt: found, path: path, seed: seed(path)}
	return tx.checks
}

// writeDigests updates the digests of the changed buckets.
func (tx *Tx) writeDigests() error {
	for _, b := range tx.dirty {
		c, key := tx.checksums(), []byte(b.path)
		tx.inBolt = true
		err := c.bolt.Put(key, seal(c.seed, key, b.digest.encode()))
		tx.inBolt = false
		if err != nil {
			return err
		}
	}
	return nil
}

// Bucket is a bucket in one transaction.
type Bucket struct {
	tx      *Tx
	bolt    *bbolt.Bucket
	path    string
	seed    uint32
	buckets map[string]*Bucket
	lookup  *bbolt.Cursor // seeks from the root each time; bbolt's Get would create one per call
	digest  *digest       // loaded when needed
	dirty   bool
}

// begin gives a new bucket its first digest.
func (b *Bucket) begin() *Bucket {
	b.digest = &digest{}
	b.touch()
	return b
}

func (b *Bucket) touch() {
	if !b.dirty {
		b.dirty = true
		b.tx.dirty = append(b.tx.dirty, b)
	}
}

func (b *Bucket) loadDigest() *digest {
	if b.digest != nil {
		return b.digest
	}
	key := []byte(b.path)
	d, ok := decodeDigest(b.tx.checksums().Get(key))
	if !ok {
		b.tx.fail("the digest of bucket %s is missing", showPath(b.path))
	}
	b.digest = &d
	return b.digest
}

// open removes the seal of a value.
func (b *Bucket) open(key, sealed []byte) []byte {
	value, ok := unseal(b.seed, key, sealed)
	if !ok {
		b.tx.fail("the value of key %s in bucket %s fails its checksum", hex.EncodeToString(key), showPath(b.path))
	}
	return value
}

// Bucket returns a nested bucket, nil if it does not exist.
func (b *Bucket) Bucket(name []byte) *Bucket {
	if c := b.buckets[string(name)]; c != nil {
		return c
	}
	b.tx.inBolt = true
	found := b.bolt.Bucket(name)
	b.tx.inBolt = false
	return b.tx.enter(&b.buckets, b.path, name, found)
}

// CreateBucketIfNotExists returns a nested bucket and creates it if necessary.
func (b *Bucket) CreateBucketIfNotExists(name []byte) (*Bucket, error) {
	if c := b.Bucket(name); c != nil {
		return c, nil
	}
	b.tx.inBolt = true
	made, err := b.bolt.CreateBucket(name)
	b.tx.inBolt = false
	if err != nil {
		return nil, err
	}
	return b.tx.enter(&b.buckets, b.path, name, made).begin(), nil
}

// Get returns the value of a key, nil if it does not exist. The value must not be changed, and is valid until the
// transaction ends or the bucket is changed.
func (b *Bucket) Get(key []byte) []byte {
	sealed := b.raw(key)
	if sealed == nil {
		return nil
	}
	return b.open(key, sealed)
}

func (b *Bucket) raw(key []byte) []byte {
	b.tx.inBolt = true
	if b.lookup == nil {
		b.lookup = b.bolt.Cursor()
	}
	k, sealed := b.lookup.Seek(key)
	b.tx.inBolt = false
	if !bytes.Equal(k, key) {
		return nil
	}
	return sealed
}

// Put sets the value of a key. Both are copied. The value that is there already changes no page.
func (b *Bucket) Put(key, value []byte) error {
	before, sealed := b.raw(key), seal(b.seed, key, value)
	if bytes.Equal(before, sealed) {
		return nil
	}
	d, old := b.loadDigest(), b.held(key, before)
	b.tx.inBolt = true
	err := b.bolt.Put(key, sealed)
	b.tx.inBolt = false
	if err != nil {
		return err
	}
	b.touch()
	old.leave(d)
	d.add(entry(key, sealed))
	return nil
}

// Delete removes a key, if it exists.
func (b *Bucket) Delete(key []byte) error {
	d, old := b.loadDigest(), b.held(key, b.raw(key))
	b.tx.inBolt = true
	err := b.bolt.Delete(key)
	b.tx.inBolt = false
	if err != nil || !old.there {
		return err
	}
	b.touch()
	old.leave(d)
	return nil
}

// held is a digest's share of a key before the key is changed.
type held struct {
	there bool
	hash  uint64
}

// held returns the share of a stored value, nil for none. It must be sound: otherwise the digest would include the damage.
func (b *Bucket) held(key, sealed []byte) held {
	if sealed == nil {
		return held{}
	}
	b.open(key, sealed)
	return held{true, entry(key, sealed)}
}

func (h held) leave(d *digest) {
	if h.there {
		d.remove(h.hash)
	}
}

// NextSequence returns the bucket's next number, one above the last.
func (b *Bucket) NextSequence() (uint64, error) {
	d := b.loadDigest()
	b.tx.inBolt = true
	n, err := b.bolt.NextSequence()
	b.tx.inBolt = false
	if err != nil {
		return 0, err
	}
	d.sequence = n
	b.touch()
	return n, nil
}

// Keys returns the number of values in the bucket without reading them.
func (b *Bucket) Keys() int {
	return int(b.loadDigest().keys) //nolint:gosec // a file holds fewer
}

// ForEach calls fn for each key in order, with a nil value for a nested bucket, until fn returns an error. fn must not
// change the bucket.
func (b *Bucket) ForEach(fn func(key, value []byte) error) error {
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}

// Cursor iterates over a bucket in key order. Its methods return a nil key at the end and a nil value for a nested
// bucket. What they return is valid until the transaction ends or the bucket is changed.
type Cursor struct {
	bucket *Bucket
	bolt   *bbolt.Cursor
	key    []byte
}

// Cursor returns a cursor without a position.
func (b *Bucket) Cursor() *Cursor { return &Cursor{bucket: b, bolt: b.bolt.Cursor()} }

// First moves to the first key.
func (c *Cursor) First() (key, value []byte) {
	return c.at(c.bolt.First)
}

// Last moves to the last key.
func (c *Cursor) Last() (key, value []byte) {
	return c.at(c.bolt.Last)
}

// Next moves to the next key.
func (c *Cursor) Next() (key, value []byte) {
	return c.at(c.bolt.Next)
}

// Prev moves to the previous key.
func (c *Cursor) Prev() (key, value []byte) {
	return c.at(c.bolt.Prev)
}

// Seek moves to the key, or the first one after it.
func (c *Cursor) Seek(sought []byte) (key, value []byte) {
	return c.at(func() (key, value []byte) { return c.bolt.Seek(sought) })
}

func (c *Cursor) at(move func() (key, sealed []byte)) (k, v []byte) {
	c.bucket.tx.inBolt = true
	key, sealed := move()
	c.bucket.tx.inBolt = false
	c.key = key
	if key == nil || sealed == nil {
		return key, nil
	}
	return key, c.bucket.open(key, sealed)
}

// Delete removes the current key. The next move may skip a key: continue with Seek or First.
func (c *Cursor) Delete() error {
	return c.bucket.Delete(bytes.Clone(c.key))
}
