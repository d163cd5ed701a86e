package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
)

const powerSegment = 16 << 10

func powerOptions(m *waltest.FS) Options {
	return completed(Options{Dir: "/data/journal", Machine: Machine{FS: m}, SegmentBytes: powerSegment, MaxBytes: 64 * powerSegment})
}

// power is one run of the workload on a file system that is cloned before every operation of the journal, as a crash
// would leave it.
type power struct {
	mem    *waltest.FS
	rng    *rand.Rand
	limit  int // of states; four times as many if some of ops is not among them
	ops    []waltest.Op
	needed atomic.Uint64

	mu      sync.Mutex
	journal *Journal
	durable uint64 // of previously closed journals
	states  int
	seen    map[waltest.Op]int
	failure error
}

// crash checks clones of the file system in states possible after a power loss right now.
func (p *power) crash(o waltest.Op, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finishedLocked() {
		return nil
	}
	p.seen[o]++
	durable := p.durable
	if p.journal != nil {
		durable = max(durable, p.journal.Durable())
	}
	percent := []int{0, 10 + p.rng.IntN(80), 100}[p.rng.IntN(3)]
	c := crashed{
		mem:     p.mem.Crash(p.rng, percent),
		durable: durable, needed: p.needed.Load(), rng: p.rng,
	}
	p.states++
	var err error
	switch p.rng.IntN(8) {
	case 0, 1:
		err = c.checkAndGoOn()
	case 2:
		err = c.checkCrashInRecovery()
	default:
		err = c.check()
	}
	p.states += c.deeper
	if err != nil {
		p.failure = fmt.Errorf("state %d, crash before %s of %s, %d%% of what was not synced kept, durable %d, needed %d: %w",
			p.states, o, name, percent, c.durable, c.needed, err)
	}
	return nil
}

// crashed is a file system after a power loss, with what it must still hold.
type crashed struct {
	mem     *waltest.FS
	durable uint64
	needed  uint64
	rng     *rand.Rand
	deeper  int // states checked in checkCrashInRecovery
}

func (c *crashed) open(m *waltest.FS) (*Journal, Recovery, error) {
	o := powerOptions(m)
	o.MaxBytes *= 2 // the disk may hold more files than the journal has counted
	return Open(o)
}

// check opens the journal after the crash: every durable record that is still needed must be there.
func (c *crashed) check() error {
	j, last, err := c.recovered(c.mem)
	if err != nil {
		return err
	}
	return errors.Join(checkRange(j, max(c.needed, 1), last), j.Close(context.Background()))
}

// recovered opens the journal and checks the result of recovery.
func (c *crashed) recovered(m *waltest.FS) (*Journal, uint64, error) {
	j, rec, err := c.open(m)
	if err != nil {
		return nil, 0, fmt.Errorf("open: %w", err)
	}
	switch {
	case len(rec.Corruptions) > 0:
		err = fmt.Errorf("reported corrupt: %v", rec.Corruptions)
	case rec.Last < c.durable:
		err = fmt.Errorf("recovered up to %d only", rec.Last)
	default:
		return j, rec.Last, nil
	}
	return nil, 0, errors.Join(err, j.Close(context.Background()))
}

// checkAndGoOn writes to the recovered journal, closes it, and recovers it again.
func (c *crashed) checkAndGoOn() error {
	j, last, err := c.recovered(c.mem)
	if err != nil {
		return err
	}
	defer func() { _ = j.Close(context.Background()) }()
	for range 5 {
		r := record(int(last) + 1)
		if last, err = j.Append(one(&r), nil); err != nil {
			return fmt.Errorf("append after recovery: %w", err)
		}
	}
	if err := j.WaitDurable(context.Background(), last); err != nil {
		return fmt.Errorf("append after recovery: %w", err)
	}
	if err := j.Close(context.Background()); err != nil {
		return err
	}
	c.durable = last
	return c.check()
}

// checkCrashInRecovery loses power again before every operation of the recovery and of the first append
// after it.
func (c *crashed) checkCrashInRecovery() error {
	m := c.mem
	var mu sync.Mutex
	var failure error
	durable := c.durable
	m.Before = func(o waltest.Op, name string) error {
		mu.Lock()
		defer mu.Unlock()
		if failure != nil {
			return nil
		}
		again := crashed{
			mem:     m.Crash(c.rng, 50),
			durable: durable, needed: c.needed, rng: c.rng,
		}
		c.deeper++
		if err := again.check(); err != nil {
			failure = fmt.Errorf("crash in recovery before %s of %s: %w", o, name, err)
		}
		return nil
	}
	j, last, err := c.recovered(m)
	if err != nil {
		return err
	}
	mu.Lock()
	durable = last // a recovered record counts as durable, so it must survive the next crash
	mu.Unlock()
	r := record(int(last) + 1)
	if last, err = j.Append(one(&r), nil); err == nil {
		err = j.WaitDurable(context.Background(), last)
	}
	err = errors.Join(err, j.Close(context.Background()))
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(failure, err)
}

func checkRange(j *Journal, from, to uint64) error {
	if from > to {
		return nil
	}
	r, err := j.NewReader(from)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	for next := from; next <= to; {
		b, ok, err := r.TryNext(0)
		if err != nil || !ok {
			return fmt.Errorf("record %d of %d is not there: %w", next, to, err)
		}
		if b.Missing > 0 {
			return fmt.Errorf("%d records are missing before %d", b.Missing, b.First)
		}
		for i := range b.Records {
			if err := checkRecord(&b.Records[i], int(next)); err != nil {
				return err
			}
			next++
		}
	}
	return nil
}

// workload appends, reads, retains and reopens until enough states were checked.
func (p *power) workload() error {
	next := uint64(1)
	for !p.finished() {
		j, _, err := Open(powerOptions(p.mem))
		if err != nil {
			return err
		}
		p.attach(j)
		j.Retain("c", max(p.needed.Load(), 1))
		for range 4 + p.rand(12) {
			for range 1 + p.rand(30) {
				r := record(int(next))
				if next, err = j.Append(one(&r), nil); err != nil {
					return err
				}
				next++
			}
			if err := j.WaitDurable(context.Background(), next-1); err != nil {
				return err
			}
			if p.rand(2) == 0 {
				p.needed.Store(max(p.needed.Load(), next-min(next-1, uint64(p.rand(50)))))
				j.Retain("c", p.needed.Load())
			}
		}
		if err := j.Close(context.Background()); err != nil {
			return err
		}
		p.detach(next - 1)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

func (p *power) rand(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rng.IntN(n)
}

func (p *power) attach(j *Journal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.journal = j
}

func (p *power) detach(durable uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.journal, p.durable = nil, durable
}

func (p *power) finished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.finishedLocked()
}

func (p *power) finishedLocked() bool {
	return p.failure != nil || p.states >= 4*p.limit || (p.states >= p.limit && len(waltest.Unseen(p.seen, p.ops)) == 0)
}

func newPower(seed uint64, limit int) *power {
	p := &power{mem: waltest.New(), rng: rand.New(rand.NewPCG(seed, 1)), limit: limit, seen: make(map[waltest.Op]int)}
	p.mem.Before = p.crash
	return p
}

func TestPowerLoss(t *testing.T) {
	t.Parallel()
	const perRun = 500
	left := waltest.States(t, 500)
	for seed := uint64(1); left > 0; seed++ {
		n := min(left, perRun)
		left -= n
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			p := newPower(seed, n)
			if n == perRun {
				p.ops = []waltest.Op{waltest.Write, waltest.Sync, waltest.Create, waltest.Allocate, waltest.Rename, waltest.SyncDir}
			}
			check.OK(t, p.workload())
			t.Logf("%d crash states before %v", p.states, p.seen)
			for _, o := range waltest.Unseen(p.seen, p.ops) {
				t.Errorf("no crash before any %s", o)
			}
		})
	}
}

// TestPowerLossIsNoticed tests the test: with any kind of sync removed it must fail.
func TestPowerLossIsNoticed(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(o waltest.Op, name string) bool{
		"all":         func(waltest.Op, string) bool { return true },
		"batches":     func(o waltest.Op, name string) bool { return o == waltest.Sync && !strings.Contains(name, sparePrefix) },
		"headers":     func(o waltest.Op, name string) bool { return o == waltest.Sync && strings.Contains(name, sparePrefix) },
		"directories": func(o waltest.Op, _ string) bool { return o == waltest.SyncDir },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPower(1, 3000)
			p.mem.Forget = forget
			err := p.workload()
			if err == nil {
				t.Fatal("a journal whose syncs do nothing passes the power-loss test")
			}
			t.Log(err)
		})
	}
}
