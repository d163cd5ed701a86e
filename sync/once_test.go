package syncer

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

func exactlyOnce(o *Options) {
	o.ExactlyOnce = true
	o.CommitInterval = time.Hour // uncommitted after a crash
}

// Records that a killed worker has written and not committed are recognised by the next one: none comes twice, and
// missing ones come.
func TestNothingTwiceAfterACrash(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(exactlyOnce)
	for _, topic := range kafkaclient.OutboxTopics() {
		p.put(topic, 0, 300)
	}
	for _, topic := range kafkaclient.OutboxTopics() {
		got(t, p.central, "fleet."+topic, 300)
	}
	// The first worker is not stopped: the second takes it for dead, and it still writes until it notices.
	for _, topic := range kafkaclient.OutboxTopics() {
		p.put(topic, 60, 300)
	}
	next := p.start(exactlyOnce)
	for _, topic := range kafkaclient.OutboxTopics() {
		p.put(topic, 120, 300)
	}
	for _, topic := range kafkaclient.OutboxTopics() {
		if have := len(got(t, p.central, "fleet."+topic, 900)); have != 900 {
			t.Errorf("%s: %d records, want 900", topic, have)
		}
	}
	await(t, func() bool { return next.lagging() == 0 })
	again := p.start(exactlyOnce) // all records exist, none is committed
	await(t, func() bool { return again.lagging() == 0 })
	for _, topic := range kafkaclient.OutboxTopics() {
		seen := map[string]bool{}
		for _, r := range fakekafka.Read(t, p.central, "fleet."+topic, 900) {
			id := string(r.Key) + "/" + string(r.Value)
			if seen[id] {
				t.Fatalf("%s: %s came twice", topic, id)
			}
			seen[id] = true
		}
		if len(seen) != 900 {
			t.Errorf("%s: %d records, want 900", topic, len(seen))
		}
	}
}

// A record that has passed this cell is not forwarded again; one of another cell is forwarded with both names.
func TestViaRefusesLoops(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	cl := fakekafka.Client(t, p.cell)
	p.start()
	for _, via := range []string{"cell-7,cell-1,cell-9", "cell-10,cell-11"} {
		check.OK(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: "central.p0", Key: []byte("k"), Value: []byte(via), Headers: []kgo.RecordHeader{
			{Key: "central-topic", Value: []byte("fleet.a")}, {Key: "via", Value: []byte(via)},
		}}).FirstErr())
	}
	sent, refused := fakekafka.Read(t, p.central, "fleet.a", 1)[0], fakekafka.Read(t, p.cell, ErrorTopic, 1)[0]
	header := func(r *kgo.Record, name string) (value string) {
		for _, h := range r.Headers {
			if h.Key == name {
				value = string(h.Value)
			}
		}
		return value
	}
	if string(sent.Value) != "cell-10,cell-11" || header(sent, "via") != "cell-10,cell-11,cell-1" {
		t.Errorf("sent %s via %s", sent.Value, header(sent, "via"))
	}
	if string(refused.Value) != "cell-7,cell-1,cell-9" || !strings.Contains(header(refused, "error"), "before") {
		t.Errorf("refused %s: %s", refused.Value, header(refused, "error"))
	}
}
