package kafkaclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// Partitions are read once they exist: those of a missing topic, and those added later. No reader is a member of the
// group; it has the committed offsets.
func TestConsumerFindsNewTopicsAndPartitions(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "here"))
	var joins atomic.Int64
	c.ControlKey(kmsg.JoinGroup.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		joins.Add(1)
		return nil, nil, false
	})
	m, err := NewConsumer(consumerOptions(c.ListenAddrs(), "here", "nowhere"))
	check.OK(t, err)
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	found := make(chan place, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx, func(ctx context.Context, p *Assignment) {
			at, err := p.Committed(ctx)
			if err != nil || at.Next >= 0 {
				t.Errorf("%s/%d: %+v, %v before anything is committed", p.Topic, p.ID, at, err)
			}
			if err := p.Commit(int64(7 + p.ID)); err != nil {
				t.Error(err)
			}
			if at, err := p.Committed(ctx); err != nil || at.Next != int64(7+p.ID) || p.Claim().Owner != "me" {
				t.Errorf("%s/%d: %+v of %+v, %v", p.Topic, p.ID, at, p.Claim(), err)
			}
			found <- place{p.Topic, p.ID}
			<-ctx.Done()
		})
	}()
	finds := func(want place) {
		t.Helper()
		select {
		case p := <-found:
			if p != want {
				t.Errorf("found %v, want %v", p, want)
			}
		case <-ctx.Done():
			t.Fatalf("%v not found", want)
		}
	}
	finds(place{"here", 0})
	admin := kadm.NewClient(fakekafka.Client(t, c))
	_, err = admin.CreateTopic(ctx, 1, 1, nil, "nowhere")
	check.OK(t, err)
	finds(place{"nowhere", 0})
	_, err = admin.CreatePartitions(ctx, 1, "here")
	check.OK(t, err)
	finds(place{"here", 1})
	cancel()
	<-done
	if n := joins.Load(); n > 0 {
		t.Errorf("joined a group %d times", n)
	}
}

// OffsetAt finds the first record at or after a time, and the end if there is none.
func TestOffsetAtATime(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	p := producer(t, c)
	out := &collector{}
	at := time.UnixMilli(1_700_000_000_000)
	out.wg.Add(3)
	for i := range 3 {
		p.Produce(&Record{Topic: "a", Key: []byte("k"), Value: []byte("v"), Time: at.Add(time.Duration(i) * time.Minute).UnixMilli(), Done: out})
	}
	allWritten(t, out.wait(t), 3)
	m, err := NewConsumer(consumerOptions(c.ListenAddrs(), "a"))
	check.OK(t, err)
	defer m.Close()
	a := &Assignment{Topic: "a", c: m}
	for after, want := range map[time.Duration]int64{-time.Hour: 0, 30 * time.Second: 1, time.Minute: 1, time.Hour: 3} {
		if n, err := a.OffsetAt(t.Context(), at.Add(after)); err != nil || n != want {
			t.Errorf("%v: %d, %v, want %d", after, n, err, want)
		}
	}
}

// Highly compressed records are not decompressed all at once: the bound of a fetch counts uncompressed bytes.
func TestFetchIsBounded(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	p := producer(t, c)
	out := &collector{}
	value := bytes.Repeat([]byte("0"), 100<<10)
	const count = 300
	out.wg.Add(count)
	for range count {
		p.Produce(&Record{Topic: "a", Key: []byte("k"), Value: value, Done: out})
	}
	allWritten(t, out.wait(t), count)
	m, err := NewConsumer(consumerOptions(c.ListenAddrs(), "a"))
	check.OK(t, err)
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	read := int64(0)
	m.Run(ctx, func(ctx context.Context, a *Assignment) {
		for read < count {
			recs, high, err := a.Fetch(ctx, 1<<20, time.Second)
			if err != nil || high != count || len(recs) > 16 {
				t.Errorf("%d records of 100 KiB, high watermark %d, %v", len(recs), high, err)
				break
			}
			for _, r := range recs {
				if r.Offset != read || !bytes.Equal(r.Value, value) {
					t.Errorf("record at %d of %d bytes, want the one at %d", r.Offset, len(r.Value), read)
				}
				read++
			}
		}
		cancel()
	})
	if read != count {
		t.Errorf("%d records read", read)
	}
}

// A response may end within a batch, which the next response begins with.
func TestDecodeStopsAtACutBatch(t *testing.T) {
	t.Parallel()
	z, err := newCodec("zstd")
	check.OK(t, err)
	batch := func(base int64) []byte {
		recs := []*Record{{Key: []byte("k"), Value: []byte("first")}, {Value: []byte("second")}}
		b, err := (&encoder{codec: z}).encode(nil, recs, producerState{id: -1, epoch: -1, seq: -1})
		check.OK(t, err)
		binary.BigEndian.PutUint64(b[sizePrefix:], uint64(base)) //nolint:gosec // positive
		return b[sizePrefix:]
	}
	one, two := batch(10), batch(12)
	for cut := range len(two) {
		p := &Assignment{Topic: "a", next: 11, batches: append(bytes.Clone(one), two[:cut]...)}
		recs, err := p.decode(1<<20, true)
		if err != nil || len(recs) != 1 || recs[0].Offset != 11 || string(recs[0].Value) != "second" || p.next != 12 || len(p.batches) != 0 {
			t.Fatalf("cut at %d: %d records, next %d, %d bytes left, %v", cut, len(recs), p.next, len(p.batches), err)
		}
		p = &Assignment{Topic: "a", next: 12, batches: bytes.Clone(two[:cut])}
		if recs, err := p.decode(1<<20, true); len(recs) != 0 || (err != nil) != (cut > 0) {
			t.Fatalf("cut at %d: %d records, %v", cut, len(recs), err)
		}
	}
	control := batch(12)
	control[22] |= 0x20
	binary.BigEndian.PutUint32(control[17:], crc32.Checksum(control[21:], castagnoli))
	p := &Assignment{Topic: "a", next: 10, batches: append(append(bytes.Clone(one), control...), batch(14)...)}
	if recs, err := p.decode(1<<20, true); err != nil || len(recs) != 4 || recs[2].Offset != 14 || p.next != 16 {
		t.Errorf("around a control batch: %d records, next %d, %v", len(recs), p.next, err)
	}
}
