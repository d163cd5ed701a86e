package kafkaclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// Records missing in the middle of a log, as after compaction, are a gap: between batches, within one, and at the end
// of one. Control records of transactions are not.
func TestDecodeStopsAtAHole(t *testing.T) {
	t.Parallel()
	batch := func(base int64, last int, values ...string) []byte {
		var recs []*Record
		for _, v := range values {
			recs = append(recs, &Record{Value: []byte(v)})
		}
		none, err := newCodec("none")
		check.OK(t, err)
		b, err := (&encoder{codec: none}).encode(nil, recs, producerState{id: -1, epoch: -1, seq: -1})
		check.OK(t, err)
		b = bytes.Clone(b[sizePrefix:])
		binary.BigEndian.PutUint64(b, uint64(base)) //nolint:gosec // positive
		binary.BigEndian.PutUint32(b[23:], uint32(last-int(base)))
		return seal(b)
	}
	between := append(batch(10, 11, "a", "b"), batch(14, 15, "c", "d")...)
	end := append(batch(10, 13, "a", "b"), batch(14, 15, "c", "d")...)
	for name, batches := range map[string][]byte{"between": between, "at the end": end} {
		p := &Assignment{Topic: "a", next: 10, batches: bytes.Clone(batches), high: 16}
		recs, err := p.decode(1<<20, true)
		if err != nil || len(recs) != 2 || p.next != 12 || p.hole == nil || p.hole.From != 12 || p.hole.To != 14 {
			t.Errorf("%s: %d records, next %d, hole %+v, %v", name, len(recs), p.next, p.hole, err)
			continue
		}
		if recs, err := p.decode(1<<20, true); len(recs) != 0 || err != nil {
			t.Errorf("%s: %d records from a hole, %v", name, len(recs), err)
		}
		p.next, p.hole = p.hole.To, nil
		if recs, err := p.decode(1<<20, true); err != nil || len(recs) != 2 || recs[0].Offset != 14 || p.next != 16 || p.hole != nil {
			t.Errorf("%s: after it %d records, next %d, %v", name, len(recs), p.next, err)
		}
	}
	control := batch(12, 13, "x", "y")
	control[22] |= 0x20
	p := &Assignment{Topic: "a", next: 10, batches: append(append(batch(10, 11, "a", "b"), seal(control)...), batch(14, 15, "c", "d")...)}
	if recs, err := p.decode(1<<20, true); err != nil || len(recs) != 4 || p.hole != nil {
		t.Errorf("around a control batch: %d records, hole %+v, %v", len(recs), p.hole, err)
	}
}

// seal updates the checksum of a changed batch.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

// Topic ids are those of the cluster, and change when a topic is recreated.
func TestTopicIDs(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(3, "a", "b"))
	client := testOptions(c.ListenAddrs()...).client([]string{"a"})
	defer closeIdle(client)
	was, err := askTopicIDs(t.Context(), client, "me", []string{"a", "b", "nowhere"})
	if err != nil || len(was) != 2 || len(was["a"]) != 32 || was["a"] == was["b"] {
		t.Fatalf("%v, %v", was, err)
	}
	cl := fakekafka.Client(t, c)
	_, err = kadm.NewClient(cl).DeleteTopic(t.Context(), "a")
	check.OK(t, err)
	_, err = kadm.NewClient(cl).CreateTopic(t.Context(), 3, 1, nil, "a")
	check.OK(t, err)
	now, err := askTopicIDs(t.Context(), client, "me", []string{"a", "b"})
	if err != nil || now["a"] == was["a"] || now["b"] != was["b"] {
		t.Errorf("%v, then %v, %v", was, now, err)
	}
}

// A response that is cut off or has wrong lengths is an error and allocates nothing for them.
func FuzzTopicIDs(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 2, 'h', 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x03})
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseTopicIDs(b) })
}

// A position beyond the end of the log is a gap only if seen twice: a new leader may not know the end yet.
func TestBeyondTheEndIsLookedAtTwice(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "a"))
	m, err := NewConsumer(consumerOptions(c.ListenAddrs(), "a"))
	check.OK(t, err)
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	m.Run(ctx, func(ctx context.Context, a *Assignment) {
		defer cancel()
		a.Resume(Mark{Next: 7})
		var gap *GapError
		if err := a.look(ctx); err == nil || errors.As(err, &gap) {
			t.Errorf("first look: %v", err)
		}
		_, _, err := a.Fetch(ctx, 1<<20, 0)
		if !errors.As(err, &gap) || !gap.Recreated || gap.From != 7 || gap.To != 0 {
			t.Errorf("gap %+v, %v", gap, err)
		}
		if done, err := a.Skip(ctx); err != nil || done == nil || a.Next() != 0 {
			t.Errorf("skip %+v, %v, next %d", done, err, a.Next())
		}
		if done, err := a.Skip(ctx); err != nil || done != nil {
			t.Errorf("second skip %+v, %v", done, err)
		}
	})
}
