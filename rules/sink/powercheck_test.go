package sink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal/waltest"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/test/check"
	"cellgate/test/parts"
)

// powerRules are the two rule sets of the workload, with different topics and different messages to Redis.
var powerRules = [2]string{
	testRules,
	strings.NewReplacer("{topic: t}", "{topic: u}", "payload.h == 0", "payload.h == 1").Replace(testRules),
}

// powerShut are the topics that sometimes take nothing.
var powerShut = []string{"t", "u", rulestest.ErrorTopic}

// entry is the test's copy of a journal record.
type entry struct {
	n       int // of the telemetry message; below 0 it becomes a dead letter
	isRules bool
	set     int // the rules that it applies
	isTick  bool
}

// want is a message that a sink must get.
type want struct {
	seq         uint64
	rule, topic string
}

// account lists what a sink must get from a journal.
type account struct {
	all                  []want
	received, dead, none uint64
}

// accounts applies the rules to a journal and returns the accounts of Kafka and Redis.
func accounts(entries []entry) (out [2]account) {
	set, fired := -1, map[int]bool{}
	add := func(i int, seq int, rule, topic string) {
		out[i].all = append(out[i].all, want{uint64(seq + 1), rule, topic}) //nolint:gosec // small
	}
	for seq, e := range entries {
		if e.isRules {
			set = e.set
			continue
		}
		if e.isTick { // these rules send nothing without a message
			continue
		}
		out[0].received++
		out[1].received++
		if e.n < 0 {
			add(0, seq, "broken", rulestest.ErrorTopic)
			out[0].dead++
			out[1].none++
			continue
		}
		add(0, seq, "all", []string{"t", "u"}[set])
		if e.n%3 == set {
			add(1, seq, "hot", "ch:"+sinktest.VIN(e.n%7))
		} else {
			out[1].none++
		}
		switch vehicle := e.n % 7; {
		case e.n%10 == 0:
			fired[vehicle] = false
		case e.n%10 == 9 && !fired[vehicle]:
			fired[vehicle] = true
			add(0, seq, "low", "low")
		}
	}
	return out
}

// machine holds what survives a crash, with changes: the disks, and what the sinks have.
type machine struct {
	mem     *waltest.FS
	db      []byte // state.db
	entries []entry
	settled [2]map[want]bool
}

// process is a gateway on a machine, from journal to sinks.
type process struct {
	file       string // state.db
	journal    *journal.Journal
	db         *statefile.DB
	dispatcher *sink.Dispatcher
	sinks      [2]*sinktest.Memory
}

const (
	powerDir    = "/data/decisions"
	operatorDir = "/data/operators"
)

// boot opens everything on a machine as the gateway does, without starting the dispatcher. wrap may wrap the journal.
func boot(mem *waltest.FS, file string, limit int, wrap func(*process) sink.Journal) (*process, error) {
	p := &process{file: file, sinks: [2]*sinktest.Memory{sinktest.NewMemory(op.SinkKafka), sinktest.NewMemory(op.SinkRedis)}}
	var err error
	if p.db, err = statefile.Open(file, statefile.Options{Sync: statefile.SyncNever}); err != nil {
		return nil, err
	}
	epoch, last, err := sink.JournalKnown(p.db)
	if err != nil {
		return nil, errors.Join(err, p.db.Close())
	}
	jo := parts.Journal("/data/journal")
	jo.FS, jo.SegmentBytes, jo.BufferBytes, jo.MaxBytes = mem, 16<<10, 16<<10, 4<<20
	jo.CommitInterval, jo.KnownEpoch, jo.KnownLast = time.Millisecond, epoch, last
	p.journal, _, err = journal.Open(jo)
	if err != nil {
		return nil, errors.Join(err, p.db.Close())
	}
	o := sink.Options{
		Journal: p.journal, DB: p.db, Dir: powerDir, OperatorDir: operatorDir, Rules: rulestest.Options("cell-1"), Node: "gw-1", SegmentBytes: 600, FS: mem,
	}
	if wrap != nil {
		o.Journal = wrap(p)
	}
	for _, s := range p.sinks {
		o.Sinks = append(o.Sinks, sink.Binding{Sink: s, Limits: sink.Limits{Messages: limit}})
	}
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
	if p.dispatcher, err = sink.New(sinktest.Completed(o)); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if strings.Contains(log.String(), operatorDir) {
		return nil, errors.Join(fmt.Errorf("%w: %s", errLost, &log), p.close())
	}
	return p, nil
}

func (p *process) close() error {
	if p.dispatcher != nil {
		p.dispatcher.Abandon()
	}
	return errors.Join(p.db.Close(), p.journal.Close(context.Background()))
}

// done adds what the sinks have durably.
func (p *process) done(to [2]map[want]bool) {
	for i, s := range p.sinks {
		for _, m := range s.Settled() {
			to[i][wantOf(&m)] = true
		}
	}
}

func wantOf(m *sinktest.Message) want { return want{m.Seq, m.Rule, m.Topic} }

// check starts from the state after a crash and verifies: what a cursor has passed is at its sink; the rest comes once
// and in order; the ledger counts all of it. With early, a checkpoint before any evaluation must not change that.
func (m *machine) check(file string, limit int, early bool) error {
	if err := lay(file, m.db); err != nil {
		return err
	}
	p, err := boot(m.mem, file, limit, nil)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if early {
		err = p.dispatcher.Checkpoint()
	}
	err = errors.Join(err, p.runs(m))
	return errors.Join(err, p.close())
}

// lay writes the database to its place; nil means that there is none yet.
func lay(file string, db []byte) error {
	if db == nil {
		return os.RemoveAll(file)
	}
	return os.WriteFile(file, db, 0o600)
}

func (p *process) runs(m *machine) error {
	last := p.journal.Last()
	if last > uint64(len(m.entries)) {
		return fmt.Errorf("the journal ends at %d, of %d records", last, len(m.entries))
	}
	lag := p.dispatcher.Lag()
	if err := p.dispatcher.Start(); err != nil {
		return err
	}
	settled := func() bool {
		l := p.dispatcher.Ledger()
		return l[0].Pending+l[1].Pending == 0
	}
	for end := time.Now().Add(check.Patience); !settled(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			return fmt.Errorf("not settled: %+v, health %+v", p.dispatcher.Ledger(), p.dispatcher.Health())
		}
	}
	for i, a := range accounts(m.entries[:last]) {
		if err := a.check(lag[i].Cursor, m.settled[i], p.sinks[i].Taken(), p.dispatcher.Ledger()[i]); err != nil {
			return fmt.Errorf("%s, cursor %d: %w", lag[i].Sink, lag[i].Cursor, err)
		}
	}
	return nil
}

var errLost = errors.New("lost")

// check compares topic by topic, because a shut topic does not hold up the others. In such a topic, what the sink had
// before the crash may be repeated after what was parked then, and what the cursor has passed may be repeated once.
func (a *account) check(cursor uint64, before map[want]bool, got []sinktest.Message, l sink.SinkLedger) error {
	byTopic, again := map[string][]want{}, map[want]bool{}
	for _, m := range got {
		w := wantOf(&m)
		if slices.Contains(powerShut, w.topic) && before[w] && !again[w] {
			again[w] = true
			continue
		}
		byTopic[w.topic] = append(byTopic[w.topic], w)
	}
	for _, w := range a.all {
		came := byTopic[w.topic]
		switch {
		case again[w] || (w.seq <= cursor && before[w]):
		case len(came) > 0 && came[0] == w:
			byTopic[w.topic] = came[1:]
		default:
			return fmt.Errorf("%w, or out of order: %+v; %+v came", errLost, w, came[:min(1, len(came))])
		}
	}
	for topic, came := range byTopic {
		if len(came) > 0 {
			return fmt.Errorf("%d messages too many in %s, the first %+v", len(came), topic, came[0])
		}
	}
	delivered := a.received - a.none - a.dead
	if !l.Balanced || l.Received != a.received || l.Filtered != a.none || l.DeadLettered != a.dead || l.Delivered != delivered {
		return fmt.Errorf("ledger %+v, want received %d, filtered %d, dead-lettered %d", l, a.received, a.none, a.dead)
	}
	return nil
}
