package sink

import (
	"path/filepath"
	"testing"

	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// setsRig is rule sets in a database, with checkpoints and restarts. Their sources are their hashes.
type setsRig struct {
	t    *testing.T
	db   *statefile.DB
	sets *ruleSets
}

func newSetsRig(t *testing.T) *setsRig {
	t.Helper()
	db, err := statefile.Open(filepath.Join(t.TempDir(), "state.db"), statefile.Options{Sync: statefile.SyncNever})
	check.OK(t, err)
	t.Cleanup(func() { _ = db.Close() })
	r := &setsRig{t: t, db: db}
	r.update(func(tx *statefile.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketDispatch)
		if err == nil {
			_, err = b.CreateBucketIfNotExists(bucketSources)
		}
		return err
	})
	r.restart()
	return r
}

func (r *setsRig) update(f func(*statefile.Tx) error) {
	r.t.Helper()
	check.OK(r.t, r.db.Update(f))
}

func (r *setsRig) restart() {
	r.t.Helper()
	r.sets = &ruleSets{db: r.db, compiled: map[string]*ruleSet{}, compile: func(source []byte) (*ruleSet, error) {
		return &ruleSet{hash: string(source)}, nil
	}}
	r.update(func(tx *statefile.Tx) error { return r.sets.load(tx.Bucket(bucketDispatch)) })
}

func (r *setsRig) announce(hash string) {
	r.t.Helper()
	check.OK(r.t, r.sets.announce(&ruleSet{hash: hash}, []byte(hash)))
}

func (r *setsRig) enter(hash string, seq uint64) {
	r.t.Helper()
	_, _, err := r.sets.enter(hash, seq)
	check.OK(r.t, err)
}

// capture is the first half of a checkpoint; it returns the second.
func (r *setsRig) capture() (store func()) {
	table, entered := r.sets.snapshot()
	return func() {
		r.t.Helper()
		r.update(func(tx *statefile.Tx) error { return r.sets.save(tx.Bucket(bucketDispatch), table, entered, "") })
		r.sets.stored(len(entered))
	}
}

// The journal has a and b after the checkpoint; b was announced after a was entered. After a restart both are entered
// again, and a checkpoint in between must not have removed a.
func TestRuleSetReadAgainIsStillStored(t *testing.T) {
	t.Parallel()
	r := newSetsRig(t)
	r.announce("a")
	r.capture()()
	r.enter("a", 10)
	r.announce("b")
	r.restart()
	r.capture()()
	r.enter("a", 10)
	r.enter("b", 20)
	r.capture()()
	r.restart()
	_, err := r.sets.get(1)
	check.OK(t, err)
}

// A rule set announced and entered between the two halves of a checkpoint is after that checkpoint.
func TestRuleSetReadDuringCheckpointIsKept(t *testing.T) {
	t.Parallel()
	r := newSetsRig(t)
	store := r.capture()
	r.announce("a")
	r.enter("a", 10)
	store()
	r.restart()
	r.enter("a", 10)
}

// Unreferenced sources are removed, also of sets that were in force more than once.
func TestUnusedRuleSetsAreRemoved(t *testing.T) {
	t.Parallel()
	r := newSetsRig(t)
	for i, hash := range []string{"a", "b", "a", "c"} {
		r.announce(hash)
		r.enter(hash, uint64(10*i+10)) //nolint:gosec // small
		r.capture()()
		r.sets.forget(uint64(10*i+10), 1<<31) //nolint:gosec // small
	}
	r.capture()()
	var left []string
	r.update(func(tx *statefile.Tx) error {
		return tx.Bucket(bucketDispatch).Bucket(bucketSources).ForEach(func(k, _ []byte) error {
			left = append(left, string(k))
			return nil
		})
	})
	if len(left) != 1 || left[0] != "c" {
		t.Fatalf("left: %v", left)
	}
}
