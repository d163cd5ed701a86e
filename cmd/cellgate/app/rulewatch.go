package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"

	"cellgate/rules/lang"
)

// lookEvery is how often the files are examined regardless of notifications: network file systems and container mounts
// send none.
const lookEvery = time.Second

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
		case <-tick.C:
		}
		k.look(ctx)
	}
}

// events returns notifications of changes in the folder, where the system sends them.
func (k *ruleKeeper) events() (<-chan fsnotify.Event, func()) {
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(k.path); err == nil {
			return w.Events, func() { _ = w.Close() }
		}
		_ = w.Close()
	}
	k.log.Warn("file watch failed; rule changes are found by reading every second", slog.Any("err", err))
	return nil, func() {}
}

// look applies the files if they differ from those last examined. It logs each error once.
func (k *ruleKeeper) look(ctx context.Context) {
	f, err := lang.LookFolder(k.path)
	k.mu.Lock()
	same := digestOf(f, err) == k.judged
	k.mu.Unlock()
	if same {
		return
	}
	k.applying.Lock()
	defer k.applying.Unlock()
	c, err := k.prepare(ctx, prepareOptions{tests: k.runTests()})
	if err == nil {
		err = k.passedOver(c)
	}
	if err == nil {
		was := k.current()
		if err = k.put(ctx, c, over{}); err == nil && was.Hash() != c.set.Hash() {
			k.audit("rule set " + c.set.Hash())
		}
	}
	if ctx.Err() == nil && k.recordOutcome(err) {
		k.log.Error("rule files not in force; the previous rules stay in force", slog.Any("err", err))
	}
}

// digestOf identifies what a look at the folder found.
func digestOf(f *lang.Folder, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	return f.Hash()
}
