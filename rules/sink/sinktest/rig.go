package sinktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
	"cellgate/rules/sink"
	"cellgate/rules/state"
	"cellgate/test/check"
	"cellgate/test/options"
	"cellgate/test/parts"
)

// Rig is a dispatcher with a real journal and real rules, for one test.
type Rig struct {
	t     testing.TB
	setup Setup
	dir   string

	Journal    *journal.Journal
	Dispatcher *sink.Dispatcher
	db         *statefile.DB
	clock      clock.Source // of the journal
}

// Setup configures a Rig.
type Setup struct {
	// Sinks creates the sinks for each start of the rig.
	Sinks func() []sink.Binding
	// Rules is the text of the rule file applied at each start.
	Rules string
	// Change may change the dispatcher's options.
	Change func(*sink.Options)
	// Journal may change the journal's options.
	Journal func(*journal.Options)
	// BeforeStart is called with every new dispatcher.
	BeforeStart func(*sink.Dispatcher) error
}

// New starts a rig.
func New(t testing.TB, s Setup) *Rig {
	t.Helper()
	r := &Rig{t: t, setup: s, dir: t.TempDir()}
	t.Cleanup(func() {
		if r.Dispatcher != nil {
			r.Kill()
		}
	})
	r.Open()
	return r
}

// Open opens journal, database and dispatcher, starts it, and applies the rules.
func (r *Rig) Open() {
	r.t.Helper()
	r.must(r.TryOpen())
	if r.setup.BeforeStart != nil {
		r.must(r.setup.BeforeStart(r.Dispatcher))
	}
	r.must(r.Dispatcher.Start())
	r.Apply(r.setup.Rules)
}

// TryOpen opens journal, database and dispatcher. If it fails, it closes them.
func (r *Rig) TryOpen() error {
	r.t.Helper()
	r.openJournal()
	var err error
	// To survive a kill the database need not be synced.
	r.db, err = statefile.Open(filepath.Join(r.dir, "state.db"), statefile.Options{Sync: statefile.SyncNever})
	r.must(err)
	o := sink.Options{
		Journal: r.Journal, DB: r.db, Dir: filepath.Join(r.dir, "decisions"), OperatorDir: filepath.Join(r.dir, "operators"), Rules: rulestest.Options("cell-1"), Node: "gw-1",
		Sinks: r.setup.Sinks(), CheckpointInterval: 10 * time.Millisecond, SegmentBytes: 8 << 10,
		Now: func() time.Time { wall, _ := r.clock(); return wall }, TickInterval: time.Millisecond,
	}
	if r.setup.Change != nil {
		r.setup.Change(&o)
	}
	if r.Dispatcher, err = sink.New(Completed(o)); err != nil {
		return errors.Join(err, r.db.Close(), r.Journal.Close(context.Background()))
	}
	return nil
}

// Completed fills the options that a test leaves out with the gateway's defaults.
func Completed(o sink.Options) sink.Options {
	c, journal := configs.Default().Rules, o.Journal.Stat().MaxBytes
	options.Fill(&o, sink.Options{
		Workers: 3,
		State:   state.StateOptions{MaxVINs: c.MaxVINs, MaxVINBytes: configs.MaxVINBytes},
		Parked: sink.ParkedLimits{
			Bytes: journal / configs.ParkedShare, DestinationBytes: journal / configs.ParkedShare / configs.ParkedShare,
			Destinations: configs.ParkedDestinations,
		},
		OnFatal: func(error) {}, Log: slog.New(slog.DiscardHandler), Metrics: sink.NewMetrics(nil),
		LagAlarm: configs.SinkLagAlarm, FS: sink.Files(), Now: time.Now, TickInterval: configs.TickInterval,
	})
	for i := range o.Sinks {
		options.Fill(&o.Sinks[i], sink.Binding{
			Limits: sink.Limits{Messages: c.QueueMessages, Bytes: int64(c.QueueBytes)}, WhenFull: sink.Hold,
			AgeOutBytes: journal / configs.AgeOutShare,
		})
	}
	return o
}

func (r *Rig) openJournal() {
	r.t.Helper()
	o := parts.Journal(filepath.Join(r.dir, "journal"))
	o.SegmentBytes, o.BufferBytes, o.CommitInterval = 256<<10, 256<<10, time.Millisecond
	if r.setup.Journal != nil {
		r.setup.Journal(&o)
	}
	r.clock = o.Clock
	var err error
	r.Journal, _, err = journal.Open(o)
	r.must(err)
}

// ChangeJournal changes the options of later journals with f.
func (r *Rig) ChangeJournal(f func(*journal.Options)) { r.setup.Journal = f }

// Setup sets f to be called with every later dispatcher before it starts.
func (r *Rig) Setup(f func(*sink.Dispatcher) error) { r.setup.BeforeStart = f }

func (r *Rig) must(err error) {
	r.t.Helper()
	check.OK(r.t, err)
}

// Source returns a rule source of one file.
func Source(text string) *lang.Source {
	return lang.NewSource(map[string][]byte{"test.rules.yaml": []byte(text)})
}

// Apply puts rules in force.
func (r *Rig) Apply(text string) {
	r.t.Helper()
	r.must(r.Dispatcher.ApplyRules(context.Background(), Source(text)))
}

// Kill ends everything like a crash: no checkpoint, nothing finished.
func (r *Rig) Kill() {
	r.Dispatcher.Abandon()
	_ = r.db.Close()
	_ = r.Journal.Close(context.Background())
	r.Dispatcher = nil
}

// Tear damages the decision logs of a killed rig as a power loss may: it appends zeros after what was synced.
func (r *Rig) Tear(rnd *rand.Rand) {
	r.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(r.dir, "decisions", "*"))
	r.must(err)
	parked, err := filepath.Glob(filepath.Join(r.dir, "decisions", "parked", "*"))
	r.must(err)
	dirs = append(dirs, parked...)
	for _, dir := range append(dirs, filepath.Join(r.dir, "operators")) {
		logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
		r.must(err)
		if len(logs) == 0 {
			continue
		}
		f, err := os.OpenFile(slices.Max(logs), os.O_APPEND|os.O_WRONLY, 0) //nolint:gosec // a path of the test's
		r.must(err)
		_, err = f.Write(make([]byte, rnd.IntN(100)))
		r.must(err)
		r.must(f.Close())
	}
}

// PublishUnseen is Publish for a stopped rig: the dispatcher finds the messages at the next Open.
func (r *Rig) PublishUnseen(first, n int) {
	r.t.Helper()
	r.openJournal()
	r.Publish(first, n)
	r.must(r.Journal.Close(context.Background()))
}

// Damage overwrites the i-th telemetry message in the journal of a stopped rig. Its whole batch is lost.
func (r *Rig) Damage(i int) {
	r.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.dir, "journal", "*"))
	r.must(err)
	for _, file := range files {
		data, err := os.ReadFile(file) //nolint:gosec // a path of the test's
		r.must(err)
		if at := bytes.Index(data, []byte(Payload(i))); at >= 0 {
			data[at] ^= 0xff
			r.must(os.WriteFile(file, data, 0o600)) //nolint:gosec // a path of the test's
			return
		}
	}
	r.t.Fatalf("message %d is not in the journal", i)
}

// LoseJournal removes the journal of a killed rig, as if its disk was replaced.
func (r *Rig) LoseJournal() {
	r.t.Helper()
	r.must(os.RemoveAll(filepath.Join(r.dir, "journal")))
}

// LoseState removes the state file of a killed rig.
func (r *Rig) LoseState() {
	r.t.Helper()
	r.must(os.Remove(filepath.Join(r.dir, "state.db")))
}

// Stop ends everything in order.
func (r *Rig) Stop() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r.must(r.Dispatcher.Stop(ctx))
	r.must(r.db.Close())
	r.must(r.Journal.Close(ctx))
	r.Dispatcher = nil
}

// Writes returns the number of writes to the database.
func (r *Rig) Writes() int64 {
	st := r.db.Stats()
	return st.TxStats.GetWrite()
}

// VIN returns the VIN of the i-th vehicle.
func VIN(i int) string { return fmt.Sprintf("LTEST%012d", i) }

// Payload returns the payload of the i-th telemetry message: its number n, and the remainders h by 3 and k by 10.
func Payload(i int) string { return fmt.Sprintf(`{"n":%d,"h":%d,"k":%d}`, i, i%3, i%10) }

// Telemetry returns the i-th telemetry message, of one of seven vehicles.
func Telemetry(i int) message.Record {
	v := VIN(i % 7)
	return message.Record{
		Kind: message.KindPublish, QoS: 1, PacketID: 1, Client: v, Topic: "v1/" + v + "/up/telemetry",
		Payload: []byte(Payload(i)),
	}
}

// Publish appends n telemetry messages from number first on and waits until they are durable.
func (r *Rig) Publish(first, n int) {
	r.t.Helper()
	var recs []message.Record
	for i := first; i < first+n; i++ {
		recs = append(recs, Telemetry(i))
		if len(recs) == 50 || i == first+n-1 {
			r.Append(recs...)
			recs = recs[:0]
		}
	}
}

// Append appends records and waits until they are durable.
func (r *Rig) Append(recs ...message.Record) {
	r.t.Helper()
	last, err := r.Journal.Append(recs, nil)
	r.must(err)
	r.must(r.Journal.WaitDurable(context.Background(), last))
}

// Ledger returns the account of one sink.
func (r *Rig) Ledger(name string) sink.SinkLedger {
	r.t.Helper()
	for _, l := range r.Dispatcher.Ledger() {
		if l.Sink == name {
			return l
		}
	}
	r.t.Fatalf("no ledger of %s", name)
	return sink.SinkLedger{}
}

// Settled waits until nothing is pending, and checks each time that the ledger balances.
func (r *Rig) Settled() {
	r.t.Helper()
	r.Await(func() bool {
		r.Balanced()
		for _, l := range r.Dispatcher.Ledger() {
			if l.Pending > 0 {
				return false
			}
		}
		return true
	})
}

// Balanced checks the ledger of every sink.
func (r *Rig) Balanced() {
	r.t.Helper()
	for _, l := range r.Dispatcher.Ledger() {
		if !l.Balanced {
			r.t.Fatalf("ledger does not balance: %+v", l)
		}
	}
}

// Await waits for a condition.
func (r *Rig) Await(ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within 30 s; ledger %+v, lag %+v, health %+v",
				r.Dispatcher.Ledger(), r.Dispatcher.Lag(), r.Dispatcher.Health())
		}
	}
}

// InOrder checks that the first appearances of each VIN's and rule's messages are in journal order. A message may be
// repeated with the same id.
func InOrder(t testing.TB, all []Message) {
	t.Helper()
	seen := map[string]bool{}
	last := map[string]uint64{}
	for _, m := range all {
		key := m.VIN + "/" + m.Rule + "/" + m.Topic
		if seen[key+m.ID] {
			continue
		}
		seen[key+m.ID] = true
		if m.Seq < last[key] {
			t.Fatalf("%s: record %d after %d", key, m.Seq, last[key])
		}
		last[key] = m.Seq
	}
}

// Pages returns the number of database pages written.
func (r *Rig) Pages() int64 {
	st := r.db.Stats()
	return st.TxStats.GetPageCount()
}

// Dir returns the rig's directory.
func (r *Rig) Dir() string { return r.dir }

// Write commits something to the database, like another part of the gateway.
func (r *Rig) Write(t testing.TB) {
	err := r.db.Update(func(tx *statefile.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("another"))
		if err == nil {
			err = b.Put([]byte("key"), []byte(time.Now().String()))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Evaluated waits until everything is evaluated and a sink has so many records pending.
func (r *Rig) Evaluated(name string, pending uint64) {
	r.t.Helper()
	r.Await(func() bool {
		l := r.Ledger(name)
		return l.Pending == pending && l.Unevaluated == 0
	})
}
