package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cellgate/broker/clock"
	"cellgate/broker/shared/message"
	"cellgate/broker/wal"
	"cellgate/configs"
	"cellgate/test/check"
	"cellgate/test/options"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testSegment = 32 << 10

func testOptions(dir string) Options {
	return completed(Options{Dir: dir, SegmentBytes: testSegment, MaxBytes: 64 * testSegment})
}

// completed completes a test's options with the gateway's defaults, but reserves no room for others.
func completed(o Options) Options {
	c := configs.Default().Uplink.Journal
	c.ReserveBytes = 0
	options.Fill(&o, c, Options{
		Machine: ThisMachine(clock.System()), OnStep: func(clock.Step) {}, OnFatal: func(error) {},
		Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(nil),
	})
	o.BufferBytes = int(min(int64(o.BufferBytes), o.SegmentBytes))
	return o
}

func open(t testing.TB, o Options) (*Journal, Recovery) {
	t.Helper()
	j, r, err := Open(completed(o))
	check.OK(t, err)
	t.Cleanup(func() { _ = j.Close(context.Background()) })
	return j, r
}

func closeJournal(t testing.TB, j *Journal) {
	t.Helper()
	check.OK(t, j.Close(context.Background()))
}

// record returns the n-th record of a test; its content encodes n.
func record(n int) message.Record {
	r := message.Record{
		Kind: message.KindPublish, QoS: 1, PacketID: uint16(n), Client: fmt.Sprintf("VIN%d", n%7),
		Topic: fmt.Sprintf("v1/VIN%d/up/telemetry", n%7), Payload: fmt.Appendf(nil, "payload %d %0*d", n, n%400, n),
	}
	if n%5 == 0 {
		r.Props = message.Properties{ContentType: "application/json", User: []message.UserProperty{{Name: "n", Value: fmt.Sprint(n)}}}
	}
	return r
}

func appendN(t testing.TB, j *Journal, from, n int) uint64 {
	t.Helper()
	var last uint64
	for i := from; i < from+n; i++ {
		var err error
		if last, err = j.Append([]message.Record{record(i)}, nil); err != nil {
			t.Fatal(err)
		}
		if last != uint64(i) {
			t.Fatalf("record %d got sequence %d", i, last)
		}
	}
	return last
}

func waitDurable(t testing.TB, j *Journal, seq uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), check.Patience)
	defer cancel()
	check.OK(t, j.WaitDurable(ctx, seq))
}

// checkRecord compares a record with record(n).
func checkRecord(got *message.Record, n int) error {
	want := record(n)
	if got.Seq != uint64(n) || got.Client != want.Client || got.Topic != want.Topic || string(got.Payload) != string(want.Payload) ||
		got.PacketID != want.PacketID || got.Props.ContentType != want.Props.ContentType || !slices.Equal(got.Props.User, want.Props.User) {
		return fmt.Errorf("record %d reads as %+v, want %+v", n, got, want)
	}
	return nil
}

// readAll reads and checks the records from..to.
func readAll(t testing.TB, j *Journal, from, to uint64) {
	t.Helper()
	r, err := j.NewReader(from)
	check.OK(t, err)
	defer func() { _ = r.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), check.Patience)
	defer cancel()
	for next := from; next <= to; {
		b, err := r.Next(ctx, 0)
		if err != nil {
			t.Fatalf("at %d: %v", next, err)
		}
		if b.First != next || b.Missing != 0 || b.Last-b.First+1 != uint64(len(b.Records)) {
			t.Fatalf("batch %d to %d with %d records, %d missing; want it from %d", b.First, b.Last, len(b.Records), b.Missing, next)
		}
		for i := range b.Records {
			check.OK(t, checkRecord(&b.Records[i], int(next)))
			next++
		}
		if r.Position() != next-1 {
			t.Fatalf("position %d, want %d", r.Position(), next-1)
		}
	}
}

func TestAppendReadReopen(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	j, rec := open(t, o)
	if !rec.Created || j.Last() != 0 || j.First() != 1 || j.Durable() != 0 {
		t.Fatalf("new journal: %+v", rec)
	}
	const n = 500
	waitDurable(t, j, appendN(t, j, 1, n))
	readAll(t, j, 1, n)
	readAll(t, j, 333, n)
	epoch := j.Epoch()
	closeJournal(t, j)

	j, rec = open(t, o)
	if rec.Created || rec.Last != n || j.Epoch() != epoch || len(rec.Corruptions) != 0 || rec.TornBytes != 0 || j.Durable() != n {
		t.Fatalf("reopened: %+v", rec)
	}
	waitDurable(t, j, appendN(t, j, n+1, n))
	readAll(t, j, 1, 2*n)
	if s := j.Stat(); s.Segments < 3 || s.Last != 2*n || s.Room <= 0 || s.Oldest.IsZero() {
		t.Fatalf("stat: %+v", s)
	}
}

func TestSetLimits(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	o.MaxBytes, o.BufferBytes = 3*o.SegmentBytes, 4<<10
	j, _ := open(t, o)
	j.Retain("c", 1)
	n := 1
	fill := func() {
		for ; ; n++ {
			r := record(n)
			if _, err := j.Append(one(&r), nil); err != nil {
				if !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				return
			}
		}
	}
	fill()
	if s := j.Stat(); s.Segments != 3 || s.MaxBytes != o.MaxBytes || s.Unused >= o.SegmentBytes || s.Full == nil {
		t.Fatalf("at the first bound: %+v", s)
	}
	j.SetLimits(Limits{MaxBytes: 5 * o.SegmentBytes, ReserveBytes: -1})
	waitDurable(t, j, uint64(n-1))
	fill()
	if s := j.Stat(); s.Segments != 5 || s.MaxBytes != 5*o.SegmentBytes || s.Bytes != s.MaxBytes {
		t.Fatalf("at the raised bound: %+v", s)
	}
	j.SetLimits(Limits{MaxBytes: 6 * o.SegmentBytes, ReserveBytes: math.MaxInt64 / 2}) // changes both bounds
	if got := j.keeper.reserve.Load(); got != math.MaxInt64/2 {
		t.Fatalf("the reserve is %d", got)
	}
	j.Retain("c", j.Durable()+1) // recycled files need no more disk space
	waitDurable(t, j, uint64(n-1))
}

// Close does not wait for space that nothing frees any more, and the error names the bound that holds.
func TestCloseWithoutRoom(t *testing.T) {
	t.Parallel()
	for want, disk := range map[string]bool{"max_bytes is reached": false, "the disk is full": true} {
		o := testOptions(t.TempDir())
		o.MaxBytes, o.BufferBytes = 3*o.SegmentBytes, 4<<10
		j, _ := open(t, o)
		j.SetLimits(Limits{MaxBytes: o.MaxBytes, Disk: disk})
		j.Retain("c", 1)
		var err error
		for n := 1; err == nil; n++ {
			r := record(n)
			_, err = j.Append(one(&r), nil)
		}
		if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err := j.Close(context.Background()); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), want) {
			t.Errorf("closed: %v, want %q", err, want)
		}
	}
}

type countingWaiter struct {
	calls atomic.Int64
	mark  atomic.Uint64
	c     chan struct{}
}

func (w *countingWaiter) Durable(mark uint64) {
	w.calls.Add(1)
	w.mark.Store(mark)
	w.c <- struct{}{}
}

// sliceWaiter cannot be compared.
type sliceWaiter []*countingWaiter

func (s sliceWaiter) Durable(mark uint64) { s[0].Durable(mark) }

func TestWaitersAreNotifiedOncePerCommit(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	o.CommitInterval = time.Second
	j, _ := open(t, o)
	w := &countingWaiter{c: make(chan struct{}, 100)}
	first, err := j.Append([]message.Record{record(1)}, w)
	check.OK(t, err)
	<-w.c
	if w.mark.Load() < first {
		t.Fatalf("told of %d, appended %d", w.mark.Load(), first)
	}
	other := sliceWaiter{&countingWaiter{c: make(chan struct{}, 100)}}
	var last uint64
	for i := range 10 {
		if _, err = j.Append([]message.Record{record(2 + 2*i)}, w); err != nil {
			t.Fatal(err)
		}
		if last, err = j.Append([]message.Record{record(3 + 2*i)}, other); err != nil {
			t.Fatal(err)
		}
	}
	for w.mark.Load() < last {
		<-w.c
	}
	if calls := w.calls.Load(); calls > 5 {
		t.Fatalf("%d calls for 11 appends in a few commits", calls)
	}
	closeJournal(t, j)
	if other[0].mark.Load() != last {
		t.Fatalf("the incomparable waiter was told of %d, want %d", other[0].mark.Load(), last)
	}
}

func TestCloseCommitsAndNotifiesEveryWaiter(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	o.CommitInterval = time.Hour
	j, _ := open(t, o)
	w := &countingWaiter{c: make(chan struct{}, 1000)}
	for i := 1; i <= 300; i++ {
		_, err := j.Append([]message.Record{record(i)}, w)
		check.OK(t, err)
	}
	closeJournal(t, j)
	if w.mark.Load() != 300 {
		t.Fatalf("told of %d", w.mark.Load())
	}
	if _, err := j.Append([]message.Record{record(1)}, w); !errors.Is(err, ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
	if err := j.WaitDurable(context.Background(), 301); !errors.Is(err, ErrClosed) {
		t.Fatalf("wait after close: %v", err)
	}
	if _, err := j.NewReader(1); !errors.Is(err, ErrClosed) {
		t.Fatalf("reader after close: %v", err)
	}
	j, rec := open(t, testOptions(o.Dir))
	if rec.Last != 300 {
		t.Fatalf("%+v", rec)
	}
	readAll(t, j, 1, 300)
}

func TestSecondOpenIsRefused(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	j, _ := open(t, o)
	if _, _, err := Open(o); !errors.Is(err, wal.ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	closeJournal(t, j)
	open(t, o)
}

func TestReaderBlocksAndPassesOverByFlags(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	j, _ := open(t, o)
	r, err := j.NewReader(1)
	check.OK(t, err)
	if _, ok, err := r.TryNext(0); ok || err != nil {
		t.Fatalf("empty journal: %v %v", ok, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.Next(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	result := message.Record{Kind: message.KindPublish, Topic: "v1/X/res/1/accepted"}
	for i := 1; i <= 200; i++ {
		waitDurable(t, j, appendN(t, j, i, 1))
	}
	_, err = j.Append([]message.Record{result}, nil)
	check.OK(t, err)
	b, err := r.Next(context.Background(), message.FlagResult|message.FlagOther)
	if err != nil || b.Last != 201 || b.Records[len(b.Records)-1].Topic != result.Topic || b.Missing != 0 {
		t.Fatalf("%v %+v", err, b)
	}
	waitDurable(t, j, appendN(t, j, 202, 5))
	at := r.Position()
	if _, ok, err := r.TryNextWithin(message.FlagResult, 1); ok || err != nil || r.Position() <= at || r.Position() > 206 {
		t.Fatalf("%v %v one batch further: position %d", ok, err, r.Position())
	}
	if _, ok, err := r.TryNext(message.FlagResult); ok || err != nil || r.Position() != 206 {
		t.Fatalf("%v %v position %d", ok, err, r.Position())
	}
	done := make(chan error)
	go func() {
		_, err := r.Next(context.Background(), 0)
		done <- err
	}()
	check.OK(t, r.Close())
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := j.NewReader(208); !errors.Is(err, ErrBeyond) {
		t.Fatalf("beyond: %v", err)
	}
}

func TestRecycling(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	j, _ := open(t, o)
	const n = 2000
	slow, err := j.NewReader(1)
	check.OK(t, err)
	waitDurable(t, j, appendN(t, j, 1, n))
	if _, ok, err := slow.TryNext(0); !ok || err != nil {
		t.Fatal(ok, err)
	}
	before := j.Stat()
	j.Retain("a", n)
	j.Retain("b", n/2)
	// The slow reader is in the first segment, so nothing may be recycled.
	appendN(t, j, n+1, 1)
	if j.First() != 1 {
		t.Fatal("recycled under a reader")
	}
	check.OK(t, slow.Close())
	j.Retain("b", n/2)
	check.Eventually(t, "segments below the slower consumer are recycled", func() bool { s := j.Stat(); return s.First > n/3 && s.Bytes < before.Bytes })
	if first := j.First(); first > n/2 {
		t.Fatalf("first is %d, but b needs %d", first, n/2)
	}
	readAll(t, j, n/2, n)
	if _, err := j.NewReader(1); !errors.Is(err, ErrTrimmed) {
		t.Fatalf("trimmed: %v", err)
	}
	j.Forget("b")
	check.Eventually(t, "a alone decides", func() bool { return j.First() > n/2+100 })
	waitDurable(t, j, appendN(t, j, n+2, n))
	readAll(t, j, n, 2*n+1)
	closeJournal(t, j)
	j, rec := open(t, o)
	if len(rec.Corruptions) != 0 {
		t.Fatalf("%+v", rec)
	}
	readAll(t, j, n, 2*n+1)
}

func TestFullAndRoomAgain(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	o.MaxBytes = 4 * testSegment
	o.BufferBytes = testSegment / 4
	j, _ := open(t, o)
	n := 1
	for {
		if _, err := j.Append([]message.Record{record(n)}, nil); err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			break
		}
		n++
	}
	if s := j.Stat(); s.Full == nil || s.Bytes > o.MaxBytes {
		t.Fatalf("%+v", s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := j.WaitRoom(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	j.Retain("a", j.Durable())
	check.OK(t, j.WaitRoom(context.Background()))
	waitDurable(t, j, appendN(t, j, n, 100))
	readAll(t, j, j.First(), uint64(n+99))
}

func TestCloseWithoutRoomGivesUpAtItsDeadline(t *testing.T) {
	t.Parallel()
	o := testOptions(t.TempDir())
	o.MaxBytes = 3 * testSegment
	j, _ := open(t, o)
	n := 0
	for ; ; n++ {
		if _, err := j.Append([]message.Record{record(n + 1)}, nil); err != nil {
			break
		}
	}
	durable := j.Durable()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := j.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, rec := open(t, o); rec.Last != durable {
		t.Fatalf("recovered %d, durable was %d", rec.Last, durable)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	j, _ := open(t, testOptions(t.TempDir()))
	recs := []message.Record{record(1), {Kind: message.KindPublish, Payload: make([]byte, testSegment)}}
	if _, err := j.Append(recs, nil); !errors.Is(err, ErrTooLarge) || j.Last() != 0 {
		t.Fatalf("%v, last %d", err, j.Last())
	}
	recs[1].Payload = recs[1].Payload[:testSegment-wal.SegmentStart-200]
	last, err := j.Append(recs, nil)
	check.OK(t, err)
	waitDurable(t, j, last)
	r, err := j.NewReader(2)
	check.OK(t, err)
	b, err := r.Next(context.Background(), 0)
	if err != nil || b.First != 2 || len(b.Records[0].Payload) != len(recs[1].Payload) {
		t.Fatalf("%v %+v", err, b)
	}
}

func one(r *message.Record) []message.Record { return []message.Record{*r} }
