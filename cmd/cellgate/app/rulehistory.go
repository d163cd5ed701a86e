package app

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cellgate/broker/shared/statefile"
	"cellgate/rules/lang"
	"cellgate/rules/workbench"
)

// bucketRules has the rule sets that ran, by number, as JSON of appliedSet.
var bucketRules = []byte("rules")

// maxHistory is how many rule sets are remembered.
const maxHistory = 20

// appliedSet is a rule set that was put in force.
type appliedSet struct {
	Hash   string    `json:"hash"`
	At     time.Time `json:"at"`
	Source []byte    `json:"source"`
	over
}

// errNoEarlierRules means that there is no other rule set to roll back to.
var errNoEarlierRules = errors.New("no earlier rule set")

// errApplied is why the files are not in force after rules were applied over the API.
var errApplied = errors.New("applied over the API: in force until the files change or a reload is requested")

// errRolledBack is why the files are not in force after a rollback.
var errRolledBack = errors.New("rolled back: the previous set is in force until the files change or a reload is requested")

// remember appends to the history. The set that ran last is not added again: a restart is no change.
func (k *ruleKeeper) remember(s appliedSet) error {
	history, err := k.history()
	if err != nil {
		return err
	}
	if len(history) > 0 && history[0].Hash == s.Hash && history[0].over == s.over {
		return nil
	}
	value, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return k.db.Update(func(tx *statefile.Tx) error {
		b := tx.Bucket(bucketRules)
		n, err := b.NextSequence()
		if err != nil {
			return err
		}
		for c, extra := b.Cursor(), len(history)+1-maxHistory; extra > 0; extra-- {
			if key, _ := c.First(); key != nil {
				if err := c.Delete(); err != nil {
					return err
				}
			}
		}
		return b.Put(binary.BigEndian.AppendUint64(nil, n), value)
	})
}

// history returns the rule sets that ran, newest first.
func (k *ruleKeeper) history() (all []appliedSet, err error) {
	err = k.db.View(func(tx *statefile.Tx) error {
		c := tx.Bucket(bucketRules).Cursor()
		for key, v := c.Last(); key != nil; key, v = c.Prev() {
			var s appliedSet
			if err := json.Unmarshal(v, &s); err != nil {
				return fmt.Errorf("rules: history: %w", err)
			}
			all = append(all, s)
		}
		return nil
	})
	return all, err
}

// stored returns what ran before this start: the rules of the dispatcher or, if the journal that names them is lost,
// the newest of the history. It returns nil when nothing ran.
func (k *ruleKeeper) stored() (*appliedSet, *candidate, error) {
	history, err := k.history()
	if err != nil {
		return nil, nil, err
	}
	src, err := k.dispatch.RulesSource()
	if err != nil {
		return nil, nil, err
	}
	was := appliedSet{At: time.Now()}
	if len(history) > 0 && (src == nil || history[0].Hash == src.Hash()) {
		was = history[0]
		if src, err = lang.UnmarshalSource(was.Source); err != nil {
			return nil, nil, err
		}
	}
	if src == nil {
		return nil, nil, nil
	}
	c, err := k.ran(src)
	return &was, c, err
}

// ran compiles a source that was in force before.
func (k *ruleKeeper) ran(src *lang.Source) (*candidate, error) {
	o := k.options
	o.Stored = true
	set, found := lang.Compile(src, o)
	if err := found.Err(); err != nil {
		return nil, err
	}
	return &candidate{src, set}, nil
}

// rollback puts the rule set with a hash in force; without a hash, the newest other one. It stays in force, also over
// restarts, until the files change or a reload is requested.
func (k *ruleKeeper) rollback(ctx context.Context, hash string) error {
	k.applying.Lock()
	defer k.applying.Unlock()
	history, err := k.history()
	if err != nil {
		return err
	}
	running := k.dispatch.RulesHash()
	for _, h := range history {
		if h.Hash == running || hash != "" && h.Hash != hash {
			continue
		}
		src, err := lang.UnmarshalSource(h.Source)
		if err != nil {
			return err
		}
		c, err := k.ran(src)
		if err != nil {
			return err
		}
		k.mu.Lock()
		instead := over{Ignored: k.files}
		k.mu.Unlock()
		if err := k.put(ctx, c, instead); err != nil {
			return err
		}
		k.recordOutcome(errRolledBack)
		return nil
	}
	if hash != "" && hash != running {
		return fmt.Errorf("%w with the hash %q: the last %d are kept", errNoEarlierRules, hash, maxHistory)
	}
	return errNoEarlierRules
}

// ranSets returns what ran, each set once, with the time when it was last put in force.
func (k *ruleKeeper) ranSets() ([]RanSet, []appliedSet, error) {
	history, err := k.history()
	if err != nil {
		return nil, nil, err
	}
	running, seen := k.dispatch.RulesHash(), map[string]bool{}
	sets, kept := []RanSet{}, history[:0:0]
	for _, h := range history {
		if !seen[h.Hash] {
			seen[h.Hash] = true
			sets = append(sets, RanSet{h.Hash, h.At.UTC(), h.Applied, h.Hash == running})
			kept = append(kept, h)
		}
	}
	return sets, kept, nil
}

// ranRules returns a rule set that ran with its files, nil when there is none.
func (k *ruleKeeper) ranRules(hash string) (*RanRules, error) {
	sets, kept, err := k.ranSets()
	if err != nil {
		return nil, err
	}
	for i := range sets {
		if sets[i].Hash != hash {
			continue
		}
		src, err := lang.UnmarshalSource(kept[i].Source)
		if err != nil {
			return nil, err
		}
		r := &RanRules{RanSet: sets[i], Files: map[string]string{}}
		for _, name := range src.Files() {
			r.Files[name] = string(src.Bytes(name))
		}
		c, err := k.ran(src)
		if err != nil {
			r.Error = err.Error()
		} else if now := k.current(); now != nil {
			d := workbench.Diff(now, c.set)
			r.Diff = &d
		}
		return r, nil
	}
	return nil, nil
}
