package sink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
	"cellgate/broker/wal/waltest"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
)

// power runs the workload on a machine whose state after a power loss is checked before every change of the decision
// logs, and before, within and after every commit of a checkpoint.
type power struct {
	dir   string
	limit int // of states; four times as many if some of ops is not among them
	ops   []waltest.Op

	mu      sync.Mutex
	rng     *rand.Rand
	m       machine
	proc    *process
	next    int      // telemetry message
	applied int      // the rules being applied
	midway  *machine // taken just before a checkpoint's transaction commits
	fork    *machine // a state with which the workload continues
	states  int
	seen    map[waltest.Op]int
	failure error
}

// Points other than calls of the file system.
const (
	opCommit    waltest.Op = "commit"
	opCommitted waltest.Op = "end of the commit"
)

func newPower(t *testing.T, seed uint64, limit int, forget func(o waltest.Op, name string) bool) *power {
	p := &power{dir: t.TempDir(), limit: limit, rng: rand.New(rand.NewPCG(seed, 1)), seen: map[waltest.Op]int{}} //nolint:gosec // a test's choices
	p.m = machine{mem: waltest.New(), settled: [2]map[want]bool{{}, {}}}
	check.OK(t, p.m.mem.MkdirAll("/data/journal"))
	if seed%2 == 1 { // by a start that was killed before its sync
		p.m.mem.Forget = func(waltest.Op, string) bool { return true }
		check.OK(t, p.m.mem.MkdirAll(powerDir))
	}
	p.m.mem.Forget = forget
	return p
}

// now returns the state after a power loss at this moment. The database is as of its last commit.
func (p *power) now() *machine {
	keep := []int{0, 10 + p.rng.IntN(80), 100}[p.rng.IntN(3)]
	m := &machine{mem: p.m.mem.Crash(p.rng, keep), db: p.m.db, entries: p.m.entries}
	for i := range m.settled {
		m.settled[i] = maps.Clone(p.m.settled[i])
	}
	if p.proc != nil {
		p.proc.done(m.settled)
	}
	return m
}

func (p *power) before(o waltest.Op, name string) error {
	if strings.HasPrefix(name, "/data/journal") {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if o == waltest.Remove { // a checkpoint's, which is committed
		p.committed()
	}
	p.look(o, name)
	return nil
}

// look checks the current state, and may choose it to continue with.
func (p *power) look(o waltest.Op, name string) {
	if p.overLocked() {
		return
	}
	m := p.now()
	if p.fork == nil && p.rng.IntN(60) == 0 {
		p.fork = &machine{mem: m.mem.Crash(p.rng, 0), db: m.db, entries: m.entries, settled: m.settled}
	}
	p.check(m, o, name)
}

func (p *power) check(m *machine, o waltest.Op, name string) {
	p.seen[o]++
	if strings.HasPrefix(name, operatorDir) {
		p.seen["operators' "+o]++
	}
	p.states++
	if err := m.check(filepath.Join(p.dir, "crashed.db"), 4<<p.rng.IntN(8), p.rng.IntN(2) == 0); err != nil {
		p.failure = fmt.Errorf("state %d, power lost before %s of %s: %w", p.states, o, name, err)
	}
}

// committed copies the database after a commit, and checks what a crash within the commit would have left.
func (p *power) committed() {
	db, err := os.ReadFile(p.proc.file)
	if err != nil {
		p.failure = err
		return
	}
	old := p.m.db
	p.m.db = db
	if m := p.midway; m != nil && !p.overLocked() {
		m.db = p.torn(old, db)
		p.check(m, opCommit, "state.db")
	}
	p.midway = nil
}

// torn returns a database in the middle of a commit: with any of the pages that it writes, except for the two meta
// pages, which are the first in the file and written last.
func (p *power) torn(old, changed []byte) []byte {
	const page = 4096
	out := append(slices.Clone(old), make([]byte, max(0, len(changed)-len(old)))...)
	for at := 2 * page; at < len(changed); at += page {
		if new := changed[at:min(at+page, len(changed))]; !bytes.Equal(out[at:at+len(new)], new) && p.rng.IntN(2) == 0 {
			copy(out[at:], new)
		}
	}
	return out
}

// recorder wraps the journal: it records every record, and deduces a checkpoint's progress from the calls.
type recorder struct {
	*journal.Journal
	p *power
}

// Epoch is called within a checkpoint's transaction.
func (w recorder) Epoch() uint64 {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if w.p.proc.dispatcher != nil {
		w.p.committed()
		w.p.midway = w.p.now()
	}
	return w.Journal.Epoch()
}

// Retain is called when a checkpoint is committed.
func (w recorder) Retain(name string, seq uint64) {
	w.p.mu.Lock()
	w.p.committed()
	w.p.look(opCommitted, "state.db")
	w.p.mu.Unlock()
	w.Journal.Retain(name, seq)
}

// Append announces rules, which are stored before, and ticks.
func (w recorder) Append(recs []message.Record, wait journal.Waiter) (uint64, error) {
	w.p.mu.Lock()
	e := entry{isTick: true}
	if recs[0].Kind == message.KindRuleSet {
		w.p.committed()
		e = entry{isRules: true, set: w.p.applied}
	}
	w.p.m.entries = append(slices.Clip(w.p.m.entries), e)
	w.p.mu.Unlock()
	return w.Journal.Append(recs, wait)
}

func (p *power) overLocked() bool {
	return p.failure != nil || p.states >= 4*p.limit || (p.states >= p.limit && len(waltest.Unseen(p.seen, p.ops)) == 0)
}

func (p *power) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.overLocked()
}

func (p *power) rand(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rng.IntN(n)
}

// workload runs one gateway after the other on the machine.
func (p *power) workload() error {
	for !p.over() {
		if err := p.start(); err != nil {
			return errors.Join(p.failure, err)
		}
		err := p.work()
		p.mu.Lock()
		proc := p.proc
		p.mu.Unlock()
		if p.rand(2) == 0 {
			ctx, cancel := context.WithTimeout(context.Background(), check.Patience)
			err = errors.Join(err, proc.dispatcher.Stop(ctx))
			cancel()
		}
		err = errors.Join(err, proc.close())
		if err != nil {
			return errors.Join(p.failure, err)
		}
		p.ended()
	}
	return p.failure
}

// start starts a gateway.
func (p *power) start() error {
	file := filepath.Join(p.dir, "state.db")
	if err := lay(file, p.m.db); err != nil {
		return err
	}
	p.m.mem.Before = p.before
	proc, err := boot(p.m.mem, file, 4<<p.rand(6), func(proc *process) sink.Journal {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.proc = proc
		p.m.entries = p.m.entries[:proc.journal.Last()]
		p.committed() // the file may be new
		return recorder{proc.journal, p}
	})
	if err != nil {
		return err
	}
	if p.rand(2) == 0 {
		err = proc.dispatcher.Checkpoint()
	}
	if err = errors.Join(err, proc.dispatcher.Start()); err != nil {
		return errors.Join(err, proc.close())
	}
	return p.apply(p.rand(2))
}

// ended is called when the gateway has ended. If a power loss was chosen, the machine continues with its state.
func (p *power) ended() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.committed()
	p.proc.done(p.m.settled)
	p.proc, p.midway = nil, nil
	if p.fork != nil {
		p.fork.mem.Forget = p.m.mem.Forget
		p.m, p.fork = *p.fork, nil
	}
}

// work is one gateway's workload.
func (p *power) work() error {
	kafka, redis := p.proc.sinks[0], p.proc.sinks[1]
	for range 4 + p.rand(12) {
		if p.over() {
			return nil
		}
		if err := p.publish(1 + p.rand(40)); err != nil {
			return err
		}
		kafka.Hold(p.rand(3) > 0)
		redis.Hold(p.rand(3) > 0)
		kafka.Settle(p.rand(100), p.rand(60))
		for _, topic := range powerShut {
			kafka.Shut(topic, p.rand(3) == 0)
		}
		redis.Settle(p.rand(100), p.rand(30))
		if p.rand(6) == 0 {
			if err := p.apply(p.rand(2)); err != nil {
				return err
			}
		}
		if p.rand(3) > 0 {
			if err := p.proc.dispatcher.Checkpoint(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *power) apply(set int) error {
	p.mu.Lock()
	p.applied = set
	p.mu.Unlock()
	return p.proc.dispatcher.ApplyRules(context.Background(), sinktest.Source(powerRules[set]))
}

func (p *power) publish(n int) error {
	var recs []message.Record
	p.mu.Lock()
	for range n {
		e, rec := entry{n: p.next}, sinktest.Telemetry(p.next)
		if p.rng.IntN(20) == 0 {
			e.n = -1
			rec.Topic, rec.Payload = "v1/"+rec.VIN()+"/up/bad", []byte(`{"x":"text"}`)
		}
		p.next++
		p.m.entries, recs = append(slices.Clip(p.m.entries), e), append(recs, rec)
	}
	p.mu.Unlock()
	last, err := p.proc.journal.Append(recs, nil)
	if err != nil {
		return err
	}
	return p.proc.journal.WaitDurable(context.Background(), last)
}

// TestPowerLoss simulates a power loss before every change of a decision log and around every commit of a checkpoint.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	const perRun = 1000
	left := waltest.States(t, 1000)
	for seed := uint64(1); left > 0; seed++ {
		n := min(left, perRun)
		left -= n
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			p := newPower(t, seed, n, nil)
			if n == perRun {
				p.ops = []waltest.Op{
					waltest.Mkdir, waltest.Create, waltest.Write, waltest.Truncate, waltest.Sync, waltest.Remove, waltest.SyncDir,
					opCommit, opCommitted, "operators' " + waltest.Remove,
				}
			}
			check.OK(t, p.workload())
			t.Logf("%d crash states before %v", p.states, p.seen)
			for _, o := range waltest.Unseen(p.seen, p.ops) {
				t.Errorf("no crash before any %s", o)
			}
		})
	}
}

// TestPowerLossIsNoticed tests the test: without any one kind of sync, it must fail.
func TestPowerLossIsNoticed(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(o waltest.Op, name string) bool{
		"files": func(o waltest.Op, name string) bool { return o == waltest.Sync && strings.HasPrefix(name, powerDir) },
		"directories": func(o waltest.Op, name string) bool {
			return o == waltest.SyncDir && strings.HasPrefix(name, powerDir+"/")
		},
		"parked": func(o waltest.Op, name string) bool {
			return o == waltest.Sync && strings.HasPrefix(name, powerDir+"/parked/")
		},
		"parent":    func(o waltest.Op, name string) bool { return o == waltest.SyncDir && name == powerDir },
		"operators": func(o waltest.Op, name string) bool { return o == waltest.Sync && strings.HasPrefix(name, operatorDir) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// An entry of a directory that was never synced matters only while it is new.
			var err error
			for seed := uint64(1); err == nil && seed <= 40; seed++ {
				err = newPower(t, seed, 100, forget).workload()
			}
			if !errors.Is(err, errLost) && !errors.Is(err, wal.ErrDamaged) {
				t.Fatalf("decision logs whose syncs do nothing pass the power-loss test: %v", err)
			}
			t.Log(err)
		})
	}
}
