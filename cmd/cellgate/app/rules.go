package app

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"cellgate/broker/statefile"
	"cellgate/configs"
	"cellgate/rules"
	"cellgate/rules/sink"
)

// ruleKeeper keeps the running rule set in step with the files: it watches them, applies what changed whole
// or not at all, and remembers what ran before, so that an operator can go back.
type ruleKeeper struct {
	path     string
	options  rules.Options
	dispatch *sink.Dispatcher
	db       *statefile.DB
	log      *slog.Logger

	applying sync.Mutex // one change at a time

	mu     sync.Mutex // guards below
	set    *rules.Set // in force
	since  time.Time
	seen   string // hash of the files when they were last looked at
	broken error  // why the files are not what runs; nil when they are
}

// bucketRules holds the rule sets that ran, by number: JSON of appliedSet.
var bucketRules = []byte("rules")

// maxHistory is how many rule sets are remembered.
const maxHistory = 20

// appliedSet is one rule set that was put in force.
type appliedSet struct {
	Hash   string    `json:"hash"`
	At     time.Time `json:"at"`
	Source []byte    `json:"source"`
	// Ignored is set by a rollback: the hash of the files that were there and are passed over.
	Ignored string `json:"ignored,omitempty"`
}

// ErrNoEarlierRules is returned by a rollback when nothing else ran before.
var ErrNoEarlierRules = errors.New("no earlier rule set")

// errRolledBack is why the files are not in force after a rollback.
var errRolledBack = errors.New("rolled back: what ran before is in force until the files change or a reload is asked for")

func newRuleKeeper(c *configs.Config, db *statefile.DB, d *sink.Dispatcher, log *slog.Logger) (*ruleKeeper, error) {
	k := &ruleKeeper{
		path: string(c.Rules.Path), options: rules.Options{Cell: c.Cell.ID, ErrorTopic: c.Rules.ErrorTopic},
		dispatch: d, db: db, log: log,
	}
	if err := os.MkdirAll(k.path, 0o750); err != nil {
		return nil, fmt.Errorf("rules.path: %w", err)
	}
	err := db.Update(func(tx *statefile.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketRules)
		return err
	})
	return k, err
}

// begin puts the files' rules in force at the start. When they are broken, what ran before the stop goes on;
// a gateway that never had rules refuses to start.
func (k *ruleKeeper) begin(ctx context.Context) error {
	if k.resumeRollback() {
		return nil
	}
	err := k.applyFiles(ctx)
	if err == nil {
		return nil
	}
	running := k.dispatch.RulesHash()
	if running == "" {
		return err
	}
	k.log.Error("the rule files are not in force: the rules of before go on", slog.String("running", running), slog.Any("error", err))
	return k.adopt(running)
}

// resumeRollback goes on with what a rollback has put in force, if the files are still those that it passed
// over.
func (k *ruleKeeper) resumeRollback() bool {
	src, err := rules.Load(k.path)
	if err != nil {
		return false
	}
	history, err := k.history()
	if err != nil || len(history) == 0 || history[0].Ignored != src.Hash() || history[0].Hash != k.dispatch.RulesHash() {
		return false
	}
	if err := k.adopt(history[0].Hash); err != nil {
		k.log.Error("the rules of a rollback cannot go on: the files are put in force", slog.Any("error", err))
		return false
	}
	k.mu.Lock()
	k.seen, k.broken = src.Hash(), errRolledBack
	k.mu.Unlock()
	k.log.Warn("the rule files are not in force: a rollback goes on", slog.String("running", history[0].Hash))
	return true
}

// adopt takes over what the dispatcher has restored.
func (k *ruleKeeper) adopt(hash string) error {
	history, err := k.history()
	if err != nil {
		return err
	}
	for _, h := range history {
		if h.Hash != hash {
			continue
		}
		src, err := rules.UnmarshalSource(h.Source)
		if err != nil {
			return err
		}
		o := k.options
		o.Stored = true
		set, found := rules.Compile(src, o)
		if err := found.Err(); err != nil {
			return err
		}
		k.inForce(set, h.At)
		return nil
	}
	return fmt.Errorf("rules: the set %s that ran is not known any more", hash)
}

func (k *ruleKeeper) inForce(set *rules.Set, since time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set, k.since = set, since
}

// applyFiles reads the folder and puts it in force.
func (k *ruleKeeper) applyFiles(ctx context.Context) error {
	k.applying.Lock()
	defer k.applying.Unlock()
	src, err := rules.Load(k.path)
	if err == nil {
		k.note(src.Hash())
		err = k.apply(ctx, src, "")
	}
	k.mu.Lock()
	k.broken = err
	k.mu.Unlock()
	return err
}

func (k *ruleKeeper) note(hash string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = hash
}

// apply compiles a source and puts it in force; ignored is the hash of the files when it comes from a
// rollback. The caller holds applying.
func (k *ruleKeeper) apply(ctx context.Context, src *rules.Source, ignored string) error {
	set, found := rules.Compile(src, k.options)
	if err := found.Err(); err != nil {
		return err
	}
	k.mu.Lock()
	same := k.set != nil && k.set.Hash() == set.Hash()
	k.mu.Unlock()
	now := time.Now()
	if !same {
		if err := k.dispatch.ApplyRules(ctx, src); err != nil {
			return err
		}
		k.inForce(set, now)
	}
	if err := k.remember(appliedSet{set.Hash(), now, src.Marshal(), ignored}); err != nil {
		k.log.Warn("a rollback to this rule set will not be possible, nor will one last over a restart", slog.Any("error", err))
	}
	if same {
		return nil
	}
	k.log.Info("rules in force", slog.String("hash", set.Hash()), slog.Int("rules", len(set.Rules())), slog.String("path", k.path))
	return nil
}

// remember appends to the history. The set that ran last is not entered twice: a restart is no change.
func (k *ruleKeeper) remember(s appliedSet) error {
	history, err := k.history()
	if err != nil {
		return err
	}
	if len(history) > 0 && history[0].Hash == s.Hash && history[0].Ignored == s.Ignored {
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

// history lists what ran, the newest first.
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

// rollback puts the newest other rule set in force: the one that ran before. It stays, over restarts too,
// until the files change again or a reload is asked for.
func (k *ruleKeeper) rollback(ctx context.Context) error {
	k.applying.Lock()
	defer k.applying.Unlock()
	history, err := k.history()
	if err != nil {
		return err
	}
	running := k.dispatch.RulesHash()
	for _, h := range history {
		if h.Hash == running {
			continue
		}
		src, err := rules.UnmarshalSource(h.Source)
		if err != nil {
			return err
		}
		k.mu.Lock()
		ignored := k.seen
		k.mu.Unlock()
		if err := k.apply(ctx, src, ignored); err != nil {
			return err
		}
		k.mu.Lock()
		k.broken = errRolledBack
		k.mu.Unlock()
		return nil
	}
	return ErrNoEarlierRules
}

// ruleState is what GET /v1/rules answers.
type ruleState struct {
	Hash   string           `json:"hash"`
	Since  time.Time        `json:"since"`
	Path   string           `json:"path"`
	Files  []string         `json:"files"`
	Rules  []rules.RuleInfo `json:"rules"`
	Error  string           `json:"error,omitempty"` // why the files are not what runs
	Broken bool             `json:"files_not_in_force"`
}

func (k *ruleKeeper) state() ruleState {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := ruleState{Path: k.path, Since: k.since, Rules: []rules.RuleInfo{}}
	if k.set != nil {
		s.Hash, s.Rules, s.Files = k.set.Hash(), k.set.Rules(), k.set.Source().Files()
	}
	if k.broken != nil {
		s.Error, s.Broken = k.broken.Error(), true
	}
	return s
}

// current is the rule set in force.
func (k *ruleKeeper) current() *rules.Set {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set
}

const (
	// settle is how long after a change the files are left alone: an editor writes in several steps.
	settle = 150 * time.Millisecond
	// lookEvery is how often the files are looked at whatever the file system tells: network file systems and
	// mounts of containers tell nothing.
	lookEvery = time.Second
)

// watch applies the files when they change, until ctx ends.
func (k *ruleKeeper) watch(ctx context.Context) {
	events, closeWatch := k.events()
	defer closeWatch()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			if !pause(ctx, settle) {
				return
			}
		case <-tick.C:
		}
		k.look(ctx)
	}
}

// events tells of changes below the folder, as far as the system does.
func (k *ruleKeeper) events() (<-chan fsnotify.Event, func()) {
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(k.path); err == nil {
			return w.Events, func() { _ = w.Close() }
		}
		_ = w.Close()
	}
	k.log.Warn("changed rules are noticed by looking every second only", slog.Any("error", err))
	return nil, func() {}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// look applies the files if they are others than when they were looked at last. What is wrong with them
// is logged once.
func (k *ruleKeeper) look(ctx context.Context) {
	src, err := rules.Load(k.path)
	if err != nil {
		k.complain(err)
		return
	}
	k.mu.Lock()
	same := src.Hash() == k.seen
	k.mu.Unlock()
	if same {
		return
	}
	if err := k.applyFiles(ctx); err != nil && ctx.Err() == nil {
		k.log.Error("changed rules are not in force: the old ones go on", slog.Any("error", err))
	}
}

// complain logs that the folder cannot be read, once.
func (k *ruleKeeper) complain(err error) {
	k.mu.Lock()
	known := k.broken != nil && k.broken.Error() == err.Error()
	k.broken, k.seen = err, ""
	k.mu.Unlock()
	if !known {
		k.log.Error("rules cannot be read: the old ones go on", slog.Any("error", err))
	}
}
