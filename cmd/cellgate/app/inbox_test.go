package app

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/broker/command"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// orders is the topic vehicle.commands of a cell.
type orders struct {
	t     *testing.T
	c     *kfake.Cluster
	admin *kadm.Client
}

// give writes a command to a partition, with a time in the past.
func (o *orders) give(id string, partition int32, ago time.Duration) {
	o.t.Helper()
	cl := fakekafka.Client(o.t, o.c, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	check.OK(o.t, cl.ProduceSync(o.t.Context(), &kgo.Record{
		Topic: topicCommands, Partition: partition, Timestamp: time.Now().Add(-ago),
		Value: []byte(fmt.Sprintf(`{"id":%q,"vin":"LTEST000000000001","name":"horn","ttl":"1h"}`, id)),
	}).FirstErr())
}

// accepted waits for a command to be accepted.
func (o *orders) accepted(a *App, id string) {
	o.t.Helper()
	check.Within(o.t, time.Minute, id, func() error {
		_, err := a.commands.Get(o.t.Context(), "", id)
		return err
	})
}

// has returns the ids of the accepted commands.
func (o *orders) has(a *App) string {
	o.t.Helper()
	page, _, err := a.commands.List(o.t.Context(), command.Filter{})
	check.OK(o.t, err)
	ids := ""
	for i := range page {
		ids = page[i].ID + " " + ids
	}
	return ids
}

func newOrders(t *testing.T) (*orders, string) {
	t.Helper()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, topicCommands, topicPresence, topicResults))
	file := writeCentre(t, t.TempDir(), c, fakekafka.Cluster(t), "")
	return &orders{t, c, kadm.NewClient(fakekafka.Client(t, c))}, file
}

// Without a position a gateway continues at the group's offset.
func TestInboxGoesOnWhereTheGroupWas(t *testing.T) {
	t.Parallel()
	o, file := newOrders(t)
	for i := range 4 {
		o.give(fmt.Sprint("c", i), 0, time.Minute)
	}
	done := kadm.Offsets{}
	done.AddOffset(topicCommands, 0, 2, -1)
	check.OK(t, o.admin.CommitAllOffsets(t.Context(), "cellgate-commands", done))
	a, _ := boot(t, file)
	o.accepted(a, "c3")
	if ids := o.has(a); ids != "c2 c3 " {
		t.Errorf("accepted %s", ids)
	}
}

// A new gateway starts with commands that may not have expired, reads new partitions from their first record, commits
// its progress to the group, and continues at its own position after a restart.
func TestInboxBeginsAndGoesOn(t *testing.T) {
	t.Parallel()
	o, file := newOrders(t)
	o.give("ancient", 0, 1000*time.Hour)
	o.give("late", 0, 2*time.Hour)
	o.give("fresh", 0, time.Minute)
	a, _ := boot(t, file)
	o.accepted(a, "fresh")
	_, err := o.admin.CreatePartitions(t.Context(), 1, topicCommands)
	check.OK(t, err)
	o.give("second", 1, 0)
	o.accepted(a, "second")
	if ids := o.has(a); ids != "fresh second " {
		t.Errorf("accepted %s", ids)
	}
	check.Eventually(t, "the group has the offsets", func() bool {
		at, err := o.admin.FetchOffsets(t.Context(), "cellgate-commands")
		if err != nil { // there is no group before its first offset
			return false
		}
		first, _ := at.Lookup(topicCommands, 0)
		second, _ := at.Lookup(topicCommands, 1)
		return first.At == 3 && second.At == 1
	})
	halt(t, a)
	o.give("meanwhile", 0, 0)
	gone := kadm.Offsets{} // the group's offsets are not used
	gone.AddOffset(topicCommands, 0, 0, -1)
	check.OK(t, o.admin.CommitAllOffsets(t.Context(), "cellgate-commands", gone))
	b, _ := boot(t, file)
	o.accepted(b, "meanwhile")
	if ids := o.has(b); ids != "fresh second meanwhile " {
		t.Errorf("accepted %s", ids)
	}
}

// A recreated topic is read from its first record, and records lost to retention are reported.
func TestInboxPassesGaps(t *testing.T) {
	t.Parallel()
	o, file := newOrders(t)
	o.give("before", 0, 0)
	a, _ := boot(t, file)
	o.accepted(a, "before")
	halt(t, a)
	for _, id := range []string{"gone", "left"} {
		o.give(id, 0, 0)
	}
	fakekafka.Expire(t, o.c, topicCommands, 2)
	b, _ := boot(t, file)
	o.accepted(b, "left")
	gaps := b.commands.Stat().Gone
	if gaps == nil || gaps.Gaps != 1 || gaps.Records == nil || *gaps.Records != 1 {
		t.Errorf("reported %+v", gaps)
	}
	halt(t, b)
	_, err := o.admin.DeleteTopic(context.Background(), topicCommands)
	check.OK(t, err)
	_, err = o.admin.CreateTopic(context.Background(), 1, 1, nil, topicCommands)
	check.OK(t, err)
	o.give("anew", 0, 0)
	c, _ := boot(t, file)
	o.accepted(c, "anew")
	if gaps := c.commands.Stat().Gone; gaps == nil || gaps.Gaps != 1 || gaps.Records != nil {
		t.Errorf("reported %+v", gaps)
	}
}
