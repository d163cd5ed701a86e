package syncer

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// bind writes n records for a central topic to the first partition of an outbox topic.
func (p *pair) bind(outbox, topic string, n, size int) {
	p.t.Helper()
	cl := fakekafka.Client(p.t, p.cell, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	var recs []*kgo.Record
	for range n {
		recs = append(recs, &kgo.Record{
			Topic: outbox, Value: []byte(strings.Repeat("v", size)), Headers: []kgo.RecordHeader{{Key: "central-topic", Value: []byte(topic)}},
		})
	}
	check.OK(p.t, cl.ProduceSync(p.t.Context(), recs...).FirstErr())
}

// Records for a missing central topic hold up only each other, however many there are: up to half of the partition's
// memory waits for the topic, the rest goes to the error topic.
func TestMissingTopicDelaysOnlyItsRecords(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.central = fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.there"))
	s := p.start(func(o *Options) {
		o.Memory = 4 << 20 // half of it is p1's, and half of that one partition's
		o.Central.AutoCreate, o.Central.MissingTopicGrace = nil, time.Hour
	})
	p.bind("central.p1", "fleet.nowhere", 1, 1000)
	await(t, func() bool { return s.lanes[1].central.Unknown("fleet.nowhere") })
	p.bind("central.p1", "fleet.nowhere", 3000, 1000)
	p.bind("central.p1", "fleet.there", 100, 1000)
	await(t, func() bool { return fakekafka.Count(t, p.central, "fleet.there") == 100 })
	waiting := int64(0)
	await(t, func() bool {
		l := s.Lanes()[1]
		waiting = int64(l.InFlight)
		return l.InFlight > 0 && fakekafka.Count(t, p.cell, ErrorTopic) == 3001-waiting
	})
	if l := s.Lanes()[1]; l.Memory > l.MaxMemory/2 || waiting < 100 {
		t.Errorf("%d records wait, in %d bytes of %d", waiting, l.Memory, l.MaxMemory)
	}
	_, err := kadm.NewClient(fakekafka.Client(t, p.central)).CreateTopic(t.Context(), 2, 1, nil, "fleet.nowhere")
	check.OK(t, err)
	await(t, func() bool { return fakekafka.Count(t, p.central, "fleet.nowhere") == waiting && s.lagging() == 0 })
}
