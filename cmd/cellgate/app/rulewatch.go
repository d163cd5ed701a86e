package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"

	"cellgate/rules/lang"
)

// lookEvery is how often the files are looked at whatever the file system tells: network file systems and
// mounts of containers tell nothing.
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

// events tells of changes below the folder, as far as the system does.
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

// look applies the files if they are others than those that were judged last. What is wrong with them is logged once.
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
	if ctx.Err() == nil && k.conclude(err) {
		k.log.Error("rule files not in force; the previous rules stay in force", slog.Any("err", err))
	}
}

// digestOf stands for what a look at the folder has found.
func digestOf(f *lang.Folder, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	return f.Hash()
}
