package kafkaclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// While a topic is missing, kafka-go ends each generation as soon as it has begun. The member must not keep the
// coordinator busy with that.
func TestConsumerWaitsForATopicThatIsNotThere(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "here"))
	var joins atomic.Int64
	c.ControlKey(kmsg.JoinGroup.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		joins.Add(1)
		return nil, nil, false
	})
	o := consumerOptions(c.ListenAddrs(), "here", "nowhere")
	o.RejoinBackoff = 200 * time.Millisecond
	m, err := NewConsumer(o)
	check.OK(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	check.OK(t, m.Run(ctx, func(ctx context.Context, _ *Assignment) { <-ctx.Done() }))
	if n := joins.Load(); n < 2 || n > 20 { // two a generation at the most, which lasts for 200 ms at the least
		t.Errorf("joined %d times in two seconds", n)
	}
}

// What compresses well is not held in memory whole: a fetch is bounded as the records are, not as they are stored.
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
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	read := int64(0)
	err = m.Run(ctx, func(generation context.Context, a *Assignment) {
		a.Resume(read)
		for read < count {
			recs, high, err := a.Fetch(generation, 1<<20, time.Second)
			if generation.Err() != nil { // the next one goes on
				return
			}
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
	if err != nil || read != count {
		t.Errorf("%d records read, %v", read, err)
	}
}

// An answer ends where its size is reached: within a batch as well, which the next one begins with.
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
		recs, err := p.decode(1 << 20)
		if err != nil || len(recs) != 1 || recs[0].Offset != 11 || string(recs[0].Value) != "second" || p.next != 12 || len(p.batches) != 0 {
			t.Fatalf("cut at %d: %d records, next %d, %d bytes left, %v", cut, len(recs), p.next, len(p.batches), err)
		}
		p = &Assignment{Topic: "a", next: 12, batches: bytes.Clone(two[:cut])}
		if recs, err := p.decode(1 << 20); len(recs) != 0 || (err != nil) != (cut > 0) {
			t.Fatalf("cut at %d: %d records, %v", cut, len(recs), err)
		}
	}
	control := batch(12)
	control[22] |= 0x20
	binary.BigEndian.PutUint32(control[17:], crc32.Checksum(control[21:], castagnoli))
	p := &Assignment{Topic: "a", next: 10, batches: append(append(bytes.Clone(one), control...), batch(14)...)}
	if recs, err := p.decode(1 << 20); err != nil || len(recs) != 4 || recs[2].Offset != 14 || p.next != 16 {
		t.Errorf("around a control batch: %d records, next %d, %v", len(recs), p.next, err)
	}
}
