package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"cellgate/auth"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/stable"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
	"cellgate/rules/doc"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/workbench"
)

// ruleKeeper keeps the running rule set in step with the files. It watches them, applies changes as a whole, and
// remembers earlier sets for rollbacks. Missing, empty or half-written files never replace running rules.
type ruleKeeper struct {
	path     string
	options  lang.Options
	runTests func() bool // whether the tests next to the rules must pass
	centre   bool        // whether a centre is configured
	dispatch *sink.Dispatcher
	db       *statefile.DB
	log      *slog.Logger
	audit    func(what string) // records changes not requested over the API

	applying sync.Mutex // one change at a time

	mu          sync.Mutex // guards below
	set         *lang.Set  // in force
	since       time.Time
	unforwarded []string // rules in force that send to a centre that is not configured
	files       string   // hash of the rule files at the last read
	judged      string   // digest of the folder that broken is about
	over        over
	broken      error     // why the files are not in force; nil when they are
	changed     time.Time // when broken was last set or cleared
	reload      outcome   // outcome of the last attempt to put the files in force
}

// hashKeys returns the keys of the rules' function hash.
func hashKeys(c *configs.Rules) lang.HashKeys {
	keys := make(lang.HashKeys, len(c.HashKeys))
	for i := range c.HashKeys {
		h := &c.HashKeys[i]
		from, _ := time.Parse(time.RFC3339, h.From) //nolint:errcheck // empty, or checked with the configuration
		keys[i] = lang.HashKey{ID: h.ID, From: from, Secret: []byte(h.Key.Reveal())}
	}
	return keys
}

// hash returns the hash of the rules in force, "" before there are any.
func (k *ruleKeeper) hash() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.set == nil {
		return ""
	}
	return k.set.Hash()
}

// RuleOptions returns the options for compiling rules under a configuration, without the keys of the function hash.
func RuleOptions(c *configs.Config) lang.Options {
	return lang.Options{Cell: c.Cell.ID, ErrorTopic: c.Rules.ErrorTopic, Targets: Targets(), Webhooks: c.WebhookNames()}
}

// ruleOptions returns RuleOptions with the keys.
func ruleOptions(c *configs.Config) lang.Options {
	o, keys := RuleOptions(c), hashKeys(&c.Rules)
	o.HashKeys = &keys
	return o
}

func newRuleKeeper(t *trust, dispatch *sink.Dispatcher) (*ruleKeeper, error) {
	c := t.cfg
	k := &ruleKeeper{
		path:     string(c.Rules.Path),
		options:  ruleOptions(c),
		runTests: func() bool { return t.Config().Rules.RunTests }, centre: c.Central != nil,
		dispatch: dispatch, db: t.db, log: t.log,
		audit: func(what string) { t.auditChange(auth.AuditRules, "files", what) },
	}
	err := k.db.Update(func(tx *statefile.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketRules)
		return err
	})
	return k, err
}

// begin puts the files' rules in force at the start. When that fails, the rules that ran before the stop stay in force;
// a gateway without earlier rules refuses to start.
func (k *ruleKeeper) begin(ctx context.Context) error {
	k.applying.Lock()
	defer k.applying.Unlock()
	was, before, err := k.stored()
	if err != nil {
		k.log.Error("the previous rules cannot be restored", slog.Any("err", err))
	}
	if before != nil {
		k.mu.Lock()
		k.set, k.since, k.over = before.set, was.At, was.over
		k.mu.Unlock()
	}
	c, err := k.prepare(ctx, prepareOptions{tests: k.runTests()})
	instead := over{}
	if err == nil {
		err = k.passedOver(c)
	}
	if err != nil {
		if before == nil {
			return err
		}
		c, instead = before, was.over
		k.log.Error("rule files not in force; the previous rules stay in force",
			slog.String("running", c.set.Hash()), slog.Any("err", err))
	}
	if failed := k.put(ctx, c, instead); failed != nil {
		return failed
	}
	k.recordOutcome(err)
	return nil
}

// candidate is a rule set that passed all checks.
type candidate struct {
	src *lang.Source
	set *lang.Set
}

// prepareOptions are the checks of rule files.
type prepareOptions struct {
	tests      bool // run the tests next to them
	allowEmpty bool // permit missing files or no rules, as requested by an operator
	strict     bool // refuse warnings
}

// testTime bounds the tests of one rule set.
const testTime = 10 * time.Second

// prepare reads and checks the files before they go into force. It changes only what is known of the files. The caller
// holds applying.
func (k *ruleKeeper) prepare(ctx context.Context, o prepareOptions) (*candidate, error) {
	f, err := lang.ReadFolder(ctx, k.path)
	var set *lang.Set
	if err == nil {
		set, err = f.Compile(k.options)
	}
	k.mu.Lock()
	k.judged = digestOf(f, err)
	if f != nil {
		k.files, k.judged = f.Source.Hash(), f.Hash()
	}
	running := k.set
	k.mu.Unlock()
	switch {
	case set != nil && running != nil && set.Hash() == running.Hash():
		return &candidate{f.Source, set}, nil
	case errors.Is(err, lang.ErrNoFiles), errors.Is(err, fs.ErrNotExist):
		return k.none(running, o.allowEmpty, err)
	case err != nil && (set == nil || !o.allowEmpty):
		return nil, err
	}
	if o.strict && len(set.Warnings) > 0 {
		return nil, set.Warnings
	}
	if !o.allowEmpty {
		if err := f.Loses(set, running); err != nil {
			return nil, err
		}
	}
	if o.tests {
		if err := k.test(ctx, f); err != nil {
			return nil, err
		}
	}
	return &candidate{f.Source, set}, nil
}

// test runs the tests next to rules.
func (k *ruleKeeper) test(ctx context.Context, f *lang.Folder) error {
	limit, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	o := k.options
	o.HashKeys = nil // tests specify hashes, and the gateway's keys are secret
	return workbench.TestFolder(limit, f, workbench.ToolOptions{Options: o})
}

// none returns the candidate for a folder without rule files: the empty set, if that already runs or an operator
// permits it.
func (k *ruleKeeper) none(running *lang.Set, allowed bool, why error) (*candidate, error) {
	if running != nil && len(running.Rules()) == 0 {
		return &candidate{running.Source(), running}, nil
	}
	if !allowed {
		return nil, why
	}
	src := lang.NewSource(map[string][]byte{})
	set, found := lang.Compile(src, k.options)
	return &candidate{src, set}, found.Err()
}

// over records why something other than the files is in force.
type over struct {
	// Ignored is the hash of the files at that time. They are not applied until they change.
	Ignored string `json:"ignored,omitempty"`
	// Applied means that the set came over the API; otherwise it is an earlier one.
	Applied bool `json:"applied,omitempty"`
}

// reason returns that as an error, nil when the files are in force.
func (o over) reason() error {
	switch {
	case o.Applied:
		return errApplied
	case o.Ignored != "":
		return errRolledBack
	}
	return nil
}

// passedOver returns an error for a candidate that was set aside by a rollback or an application over the API.
func (k *ruleKeeper) passedOver(c *candidate) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over.Ignored == "" || c.set.Hash() != k.over.Ignored {
		return nil
	}
	return k.over.reason()
}

// put puts a candidate in force. instead is set when it does not come from the files. The caller holds applying.
func (k *ruleKeeper) put(ctx context.Context, c *candidate, instead over) error {
	if err := k.dispatch.ApplyRules(ctx, c.src); err != nil {
		k.lookAgain()
		return err
	}
	now := time.Now()
	k.mu.Lock()
	same := k.set != nil && k.set.Hash() == c.set.Hash()
	if !same {
		k.since = now
	}
	before := k.unforwarded
	k.set, k.over, k.unforwarded = c.set, instead, k.bound(c.set)
	lost := k.unforwarded
	k.mu.Unlock()
	if err := k.remember(appliedSet{c.set.Hash(), now, c.src.Marshal(), instead}); err != nil {
		k.log.Warn("rule set not saved; a rollback to it is not possible, and a restart loses a rollback", slog.Any("err", err))
	}
	if len(lost) > 0 && (!same || len(before) == 0) {
		k.log.Warn("rules have central targets, but the configuration has no central section; nothing forwards the outbox topics",
			slog.Any("rules", lost))
	}
	if !same {
		k.log.Info("rules in force", slog.String("hash", c.set.Hash()), slog.Int("rules", len(c.set.Rules())), slog.String("path", k.path),
			slog.Int("warnings", len(c.set.Warnings)))
	}
	return nil
}

// lookAgain makes the next look examine the files even if they are unchanged.
func (k *ruleKeeper) lookAgain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.judged = ""
}

// bound returns the rules of a set that send to a centre that is not configured.
func (k *ruleKeeper) bound(set *lang.Set) []string {
	if k.centre {
		return nil
	}
	return set.SendingTo(op.SinkCentral)
}

// recordOutcome records the outcome of an attempt to put the files in force. It reports whether that is a new error.
func (k *ruleKeeper) recordOutcome(err error) bool {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	var changing *stable.ChangingError
	gaveUp := errors.Is(err, context.Canceled)
	if gaveUp || errors.As(err, &changing) {
		k.judged = ""
	}
	if gaveUp { // cancelled by a caller or a stop: says nothing about the files
		return false
	}
	if (err == nil) != (k.broken == nil) || k.changed.IsZero() {
		k.changed = now
	}
	fresh := err != nil && (k.broken == nil || k.broken.Error() != err.Error())
	k.broken = err
	if errors.Is(err, errRolledBack) || errors.Is(err, errApplied) {
		err = nil // as requested
	}
	k.reload = k.reload.note(err)
	return fresh
}

// reloaded returns the rule set in force (nil before there is one), and the outcome of the last attempt to put the
// files in force.
func (k *ruleKeeper) reloaded() (*lang.Set, outcome) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set, k.reload
}

// applyFiles reads the folder and puts it in force, also after a rollback.
func (k *ruleKeeper) applyFiles(ctx context.Context, allowEmpty, strict bool) error {
	k.applying.Lock()
	defer k.applying.Unlock()
	c, err := k.prepare(ctx, prepareOptions{k.runTests(), allowEmpty, strict})
	if err == nil {
		err = k.put(ctx, c, over{})
	}
	k.recordOutcome(err)
	return err
}

func (k *ruleKeeper) state() RuleSet {
	counts := k.dispatch.RuleCounts() // may take a while
	k.mu.Lock()
	defer k.mu.Unlock()
	s := RuleSet{Path: k.path, Since: k.since, Rules: []lang.RuleInfo{}, Files: []string{}, Warnings: doc.Diagnostics{}}
	if k.set != nil {
		s.Hash, s.Rules, s.Files = k.set.Hash(), k.set.Rules(), append(s.Files, k.set.Source().Files()...)
		s.Warnings = append(s.Warnings, k.set.Warnings...)
	}
	if k.broken != nil {
		s.Error, s.Broken = k.broken.Error(), true
	}
	s.Applied, s.Held, s.Counts = k.over.Applied, k.held(), map[string]RuleCount{}
	for id, c := range counts {
		s.Counts[id] = RuleCount{c.Matched, c.Filtered(), c.Missing, c.Errors}
	}
	return s
}

// dependencies reports rule files that are not in force, and a centre that rules send to but that is not configured.
func (k *ruleKeeper) dependencies() []remote.Health {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []remote.Health
	if k.broken != nil && !errors.Is(k.broken, errApplied) {
		all = append(all, remote.Health{
			Name: "rules", Since: k.changed.UTC(), Reason: reasonOf(k.broken) + ": the previous rules stay in force; GET /v1/rules has details",
		})
	}
	if len(k.unforwarded) > 0 {
		all = append(all, remote.Health{
			Name: "sync", Since: k.since.UTC(), Reason: "rules send to the centre, but the configuration has no section central: " +
				"nothing forwards the outbox topics; add the section, or remove the targets",
		})
	}
	for _, h := range k.held() {
		all = append(all, remote.Health{Name: "rule " + h.Rule, Since: h.Since, Reason: fmt.Sprintf(
			"it sends nothing: %d of %d messages were errors, its limit is %s; fix it, or call cellgate rules lift %s", h.Errors, h.Messages, h.Limit, h.Rule)})
	}
	return all
}

// held returns the rules held by their limits.
func (k *ruleKeeper) held() []HeldRule {
	held := []HeldRule{}
	for _, l := range k.dispatch.Limited() {
		if h := l.Held; h != nil {
			held = append(held, HeldRule{Rule: l.Rule, Limit: l.Limit, Since: time.UnixMilli(h.At).UTC(), Errors: h.Errors, Messages: h.Messages})
		}
	}
	return held
}

func reasonOf(err error) string {
	if errors.Is(err, errRolledBack) {
		return "rolled back"
	}
	return workbench.Reason(err)
}

// current returns the rule set in force.
func (k *ruleKeeper) current() *lang.Set {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set
}
