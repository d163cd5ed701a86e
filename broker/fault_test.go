package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/broker/journal"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/wal/waltest"
	"cellgate/test/check"
	"cellgate/test/mqtt"
	"cellgate/test/parts"
)

// TestFaultAtEveryCallSite fails each write, sync, allocation, creation and renaming of the journal's files in turn:
// once alone, and once with all that follow. Meanwhile a client of each protocol version publishes with QoS 1 and 2.
// Every acknowledged message must be on the disk afterwards, both after a power loss and after a kill.
func TestFaultAtEveryCallSite(t *testing.T) {
	t.Parallel()
	authority, err := auth.Open(authConfig(t.TempDir()))
	check.OK(t, err)
	t.Cleanup(func() { check.OK(t, authority.Close(context.Background())) })
	clean := newFaultCase(t, authority, 0, 0, nil)
	clean.run(testPatience)
	if acked := len(clean.acked); acked != 2*faultMessages {
		t.Fatalf("without faults %d of %d are acknowledged", acked, 2*faultMessages)
	}
	clean.check()
	step := 1
	if testing.Short() {
		step = 7
	}
	for _, err := range []error{syscall.EIO, syscall.ENOSPC} {
		for _, many := range []int{1, 1 << 30} {
			t.Run(fmt.Sprintf("%v %d", err, many), func(t *testing.T) {
				t.Parallel()
				patience, told := testPatience, 0
				if many > 1 {
					patience = 400 * time.Millisecond
				}
				sites := map[string]int{}
				for from := 1; from <= clean.faults.Count(); from += step {
					c := newFaultCase(t, authority, from, many, err)
					c.run(patience)
					c.check()
					told += len(c.acked)
					for _, hit := range first(c.faults.Hits(), 1) {
						sites[hit[:strings.LastIndexByte(hit, ' ')]]++
					}
				}
				t.Logf("%d acknowledgements, first failures at %v", told, sites)
			})
		}
	}
}

// TestFalseAcknowledgementsAreNoticed breaks the promise: with acknowledgements on receipt, messages must be found
// missing.
func TestFalseAcknowledgementsAreNoticed(t *testing.T) {
	t.Parallel()
	authority, err := auth.Open(authConfig(t.TempDir()))
	check.OK(t, err)
	t.Cleanup(func() { check.OK(t, authority.Close(context.Background())) })
	acked := 0
	for from := 15; from < 45; from++ { // by chance, everything acknowledged may be on the failed disk
		c := newFaultCase(t, authority, from, 1<<30, syscall.EIO)
		c.ack = func(*message.Record) AckMode { return AckMemory }
		c.run(time.Second)
		if acked += len(c.acked); len(c.lost()) > 0 {
			return
		}
	}
	t.Errorf("%d acknowledged on receipt by disks that failed, and nothing is missing", acked)
}

const faultMessages = 24 // per client

// faultCase is a broker on a faulty disk, with what its clients saw.
type faultCase struct {
	t         *testing.T
	authority *auth.Authority
	ack       func(*message.Record) AckMode
	disk      *waltest.FS
	faults    *waltest.Faults
	b         *Broker
	journal   *journal.Journal
	stopped   sync.WaitGroup
	consumed  sync.Map // payload → sequence, as read by the journal's consumer

	mu    sync.Mutex
	acked map[string]bool // payloads
	kept  uint64          // the consumer has released the records below it
	conns []*client
	// failed means that the journal has failed: no new client is served.
	failed bool
}

func newFaultCase(t *testing.T, authority *auth.Authority, from, many int, err error) *faultCase {
	t.Helper()
	c := &faultCase{t: t, authority: authority, disk: waltest.New(), faults: &waltest.Faults{From: from, Many: many, Err: err}, acked: map[string]bool{}, kept: 1}
	c.disk.Before = c.faults.Before
	t.Cleanup(c.stopped.Wait)
	return c
}

func faultJournal(d *waltest.FS, fatal func(error)) (*journal.Journal, journal.Recovery, error) {
	o := parts.Journal("/journal")
	o.FS, o.SegmentBytes, o.BufferBytes, o.MaxBytes, o.OnFatal = d, 16<<10, 16<<10, 1<<20, fatal
	return journal.Open(o)
}

// fatal ends the connections a moment after the journal has failed, like the gateway. Acknowledgements in between
// count.
func (c *faultCase) fatal(error) {
	time.Sleep(50 * time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = true
	for _, cl := range c.conns {
		_ = cl.Conn.Close()
	}
}

// run starts the broker, drives both clients until they finish or time out, and stops it.
func (c *faultCase) run(patience time.Duration) {
	c.t.Helper()
	j, _, err := faultJournal(c.disk, c.fatal)
	if err != nil {
		return // a gateway that does not start acknowledges nothing
	}
	c.journal = j
	j.Retain("c", 1)
	stop := c.serve()
	ctx, cancel := context.WithCancel(context.Background())
	var consumer, clients sync.WaitGroup
	consumer.Go(func() { c.consume(ctx) })
	for _, version := range []byte{frame.Version311, frame.Version5} {
		clients.Go(func() { c.drive(version, patience) })
	}
	clients.Wait()
	cancel()
	consumer.Wait()
	c.stopped.Go(stop) // takes two seconds if a reader waits for a failed journal
	short, done := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer done()
	_ = j.Close(short) // returns the fault's error again
}

func (c *faultCase) serve() (stop func()) {
	c.t.Helper()
	db, err := statefile.Open(filepath.Join(c.t.TempDir(), "state.db"), statefile.Options{Sync: statefile.SyncNever})
	check.OK(c.t, err)
	sessions, err := session.Open(sessionOptions(db, NewIndex(), sessionJournal{c.journal}))
	check.OK(c.t, err)
	c.b, err = New(completed(Options{
		Journal: c.journal, Sessions: sessions, Auth: c.authority, Ack: c.ack,
		Listeners: []Listener{{Name: "cars", Address: "127.0.0.1:0", AnonymousRole: auth.RoleVehicle}},
	}))
	check.OK(c.t, err)
	check.OK(c.t, c.b.Start(c.t.Context()))
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), testPatience)
		defer cancel()
		check.OK(c.t, c.b.Stop(ctx, 0, ""))
		_ = sessions.Close(ctx)
		check.OK(c.t, db.Close())
	}
}

// consume reads the journal and releases all but the last records, so that segments are recycled.
func (c *faultCase) consume(ctx context.Context) {
	r, err := c.journal.NewReader(1)
	if err != nil {
		return // the journal has already failed
	}
	defer func() { _ = r.Close() }()
	for {
		b, err := r.Next(ctx, 0)
		if err != nil {
			return
		}
		for i := range b.Records {
			c.consumed.Store(string(b.Records[i].Payload[:min(8, len(b.Records[i].Payload))]), b.Records[i].Seq)
		}
		c.mu.Lock()
		c.kept = max(1, b.Last-min(b.Last, 8))
		kept := c.kept
		c.mu.Unlock()
		c.journal.Retain("c", kept)
	}
}

// drive publishes in groups of four, alternating QoS 1 and 2, and records the acknowledgements.
func (c *faultCase) drive(version byte, patience time.Duration) {
	h := &harness{t: c.t, b: c.b}
	id := fmt.Sprintf("LTEST00000000000%d", version)
	cl := h.dial("cars")
	defer func() { _ = cl.Conn.Close() }()
	c.mu.Lock()
	c.conns = append(c.conns, cl)
	failed := c.failed
	c.mu.Unlock()
	if cl.Version = version; failed {
		return
	}
	if _, err := cl.Conn.Write(connectFrame(id, version, mqtt.Connect{})); err != nil {
		return
	}
	cl.Patience = patience
	if first, body, err := cl.ReadFrame(); err != nil || first != 0x20 || body[1] != 0 {
		return // a journal that takes nothing allows no session either
	}
	const group = 4
	for n := uint16(1); n <= faultMessages; n += group {
		answers := 0
		for i := n; i < n+group; i++ {
			qos := byte(1 + i%2)
			answers += int(qos)
			if _, err := cl.Conn.Write(publishFrame(version, qos, i, "v1/"+id+"/up/x", payloadOf(version, i))); err != nil {
				return
			}
		}
		for ; answers > 0; answers-- {
			if !c.answer(cl, version) {
				return
			}
		}
	}
}

// payloadOf returns a payload whose first eight bytes are unique within a case.
func payloadOf(version byte, n uint16) string {
	return fmt.Sprintf("v%d-%05d", version, n) + strings.Repeat("x", 700)
}

func first(all []string, n int) []string { return all[:min(n, len(all))] }

// answer handles one frame from the server. False ends the client.
func (c *faultCase) answer(cl *client, version byte) bool {
	first, body, err := cl.ReadFrame()
	if err != nil || len(body) < 2 || (len(body) > 2 && body[2] >= 0x80) {
		return false
	}
	id := uint16(body[0])<<8 | uint16(body[1])
	switch first {
	case 0x40, 0x50:
		c.mu.Lock()
		c.acked[payloadOf(version, id)[:8]] = true
		c.mu.Unlock()
		if first == 0x50 {
			_, err = cl.Conn.Write(frame.AppendAck(nil, frame.TypePubrel, id, 0, version))
		}
	case 0x70:
	default:
		return false
	}
	return err == nil
}

// lost describes the acknowledged messages that cannot be read back.
func (c *faultCase) lost() (all []string) {
	for _, written := range []int{0, 100} { // after a power loss, and after a kill
		where := fmt.Sprintf("fault at %d (%v), %d %% written", c.faults.From, first(c.faults.Hits(), 3), written)
		found, err := readBack(c.disk.Crash(nil, written))
		if err != nil {
			all = append(all, fmt.Sprintf("%s: %v", where, err))
			continue
		}
		for _, payload := range slices.Sorted(maps.Keys(c.acked)) {
			if seq, ok := c.consumed.Load(payload); ok && seq.(uint64) < c.kept {
				continue
			}
			if !found[payload] {
				all = append(all, fmt.Sprintf("%s: %s was acknowledged and is gone", where, payload))
			}
		}
	}
	return all
}

func (c *faultCase) check() {
	c.t.Helper()
	for _, lost := range c.lost() {
		c.t.Error(lost)
	}
}

// readBack reopens a journal and returns its payloads.
func readBack(d *waltest.FS) (map[string]bool, error) {
	j, rec, err := faultJournal(d, func(error) {})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	found := map[string]bool{}
	if len(rec.Corruptions) > 0 {
		err = fmt.Errorf("corruptions %v", rec.Corruptions)
	}
	r, rerr := j.NewReader(j.First())
	if err = errors.Join(err, rerr); err != nil {
		return nil, errors.Join(err, j.Close(ctx))
	}
	for r.Position() < j.Durable() {
		b, ok, err := r.TryNext(0)
		if err != nil || !ok {
			return nil, errors.Join(err, r.Close(), j.Close(ctx))
		}
		for i := range b.Records {
			found[string(b.Records[i].Payload[:min(8, len(b.Records[i].Payload))])] = true
		}
	}
	return found, errors.Join(r.Close(), j.Close(ctx))
}
