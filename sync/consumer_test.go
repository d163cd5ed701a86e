package syncer

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// [consumer
type source struct {
	central          int32 // partition at the centre
	cell, topic, num string
}

// last is the highest src-offset from each source: a consumer of the centre stores it with its own offsets.
type last map[source]int64

// repeated reports whether a record has come before. Records of one source come in order, so that one number is enough.
func (l last) repeated(r *kgo.Record) bool {
	from, offset := source{central: r.Partition}, int64(-1)
	for _, h := range r.Headers {
		switch h.Key {
		case "src-cell":
			from.cell = string(h.Value)
		case "src-topic":
			from.topic = string(h.Value)
		case "src-partition":
			from.num = string(h.Value)
		case "src-offset":
			offset = 0
			for _, digit := range h.Value {
				offset = 10*offset + int64(digit-'0')
			}
		}
	}
	if before, known := l[from]; known && offset <= before {
		return true
	}
	l[from] = offset
	return false
}

// consumer]

// A consumer that remembers the last source offset recognises the duplicates of a killed worker, and loses nothing.
func TestAConsumerDetectsDuplicates(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	killed := func(o *Options) { o.CommitInterval = time.Hour }
	p.start(killed)
	p.put("central.p1", 0, 300)
	got(t, p.central, "fleet.central.p1", 300)
	next := p.start(killed) // nothing was committed
	p.put("central.p1", 60, 300)
	// The lag alone does not say it: that of the last fetch may be 0, with records that were written after it.
	await(t, func() bool { return fakekafka.Count(t, p.central, "fleet.central.p1") >= 900 && next.lagging() == 0 })
	n := int(fakekafka.Count(t, p.central, "fleet.central.p1"))
	seen, counted := last{}, map[string]int{}
	for _, r := range fakekafka.Read(t, p.central, "fleet.central.p1", n) {
		if !seen.repeated(r) {
			counted[string(r.Key)+"/"+string(r.Value)]++
		}
	}
	if n < 900 || len(counted) != 600 {
		t.Errorf("%d records came, %d are told to be different, want 900 or more and 600", n, len(counted))
	}
	for id, times := range counted {
		if times != 1 {
			t.Errorf("%s is told %d times", id, times)
		}
	}
}

// The docs page about the centre shows the consumer of the test above.
func TestThePageShowsTheConsumer(t *testing.T) {
	t.Parallel()
	code := check.Read(t, "consumer_test.go")
	page := check.Read(t, "../docs/centre.md")
	_, rest, _ := strings.Cut(string(code), "// [consumer\n")
	shown, _, _ := strings.Cut(rest, "\n// consumer]")
	if shown == "" || !strings.Contains(string(page), shown) {
		t.Error("docs/centre.md differs from consumer_test.go")
	}
}
