package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"cellgate/broker/command"
	"cellgate/broker/shared/kafkaclient"
)

const (
	// inboxBytes is how much of vehicle.commands is fetched at a time. inboxRecords is how many records go into one
	// transaction; HTTP requests wait for it.
	inboxBytes   = 256 << 10
	inboxRecords = 128
	// inboxWait is how long the broker may wait for a record before it answers with none.
	inboxWait = 500 * time.Millisecond
	// inboxShow is how often the position is committed to the group.
	inboxShow = time.Second
)

// inbox reads a partition of vehicle.commands. Its position is in the state file; the one of the group is only for
// display.
type inbox struct {
	part     *kafkaclient.Assignment
	commands *command.Service
	log      *slog.Logger
	oldest   func() time.Time      // commands older than this have expired
	rest     []kafkaclient.Fetched // fetched and not returned yet
	given    int64                 // the offset after the last record returned
	accepted atomic.Int64
	gap      *kafkaclient.GapError // skipped but not reported yet: the time of the next record is part of the report
}

// Partition implements command.Consumer.
func (i *inbox) Partition() string { return i.part.Topic + "/" + strconv.Itoa(i.part.ID) }

// Resume implements command.Consumer. Without a position it continues at the group's offset, else at the first record
// whose command may not have expired.
func (i *inbox) Resume(ctx context.Context, position []byte) error {
	i.rest = nil
	if position != nil {
		var at kafkaclient.Mark
		if err := json.Unmarshal(position, &at); err != nil {
			return fmt.Errorf("data_dir: state.db: the position in %s: %w", i.Partition(), err)
		}
		i.part.Resume(at)
		return nil
	}
	at, err := i.part.Committed(ctx)
	if err == nil && at.Next < 0 {
		at.Next, err = i.part.OffsetAt(ctx, i.oldest())
	}
	if err == nil {
		i.part.Resume(at)
	}
	return err
}

// Fetch implements command.Consumer. It skips gaps and reports them: late commands are worth less than the ones after
// them.
func (i *inbox) Fetch(ctx context.Context) ([]command.Message, []byte, error) {
	if len(i.rest) == 0 {
		if err := i.fill(ctx); err != nil {
			return nil, nil, err
		}
	}
	now := i.rest[:min(len(i.rest), inboxRecords)]
	i.rest = i.rest[len(now):]
	at := i.part.Mark()
	if len(i.rest) > 0 {
		at.Next = now[len(now)-1].Offset + 1
	}
	i.given = at.Next
	position, err := json.Marshal(at)
	out := make([]command.Message, len(now))
	for n := range now {
		r := &now[n]
		out[n] = command.Message{Ref: recordRef(i.part.ID, r.Offset, r.Time), At: r.Time, Value: r.Value, By: string(r.Header("by"))}
	}
	return out, position, err
}

// fill fetches until there is a record or a gap has been skipped.
func (i *inbox) fill(ctx context.Context) error {
	for len(i.rest) == 0 {
		recs, _, err := i.part.Fetch(ctx, inboxBytes, inboxWait)
		var gap *kafkaclient.GapError
		if errors.As(err, &gap) {
			err = i.pass(ctx)
			recs = nil
		}
		if err != nil {
			return err
		}
		passed := gap != nil
		switch i.rest = recs; {
		case len(recs) > 0:
			i.report(recs[0].Time)
		case i.gap != nil && !passed: // no record follows it yet
			i.report(time.Time{})
			return nil
		}
	}
	return nil
}

// pass skips a gap.
func (i *inbox) pass(ctx context.Context) error {
	gap, err := i.part.Pass(ctx)
	if err == nil && gap != nil {
		i.report(time.Time{}) // an earlier gap that is not reported yet
		i.gap = gap
	}
	return err
}

// report reports the skipped gap. next is the time of the record after it, zero if there is none.
func (i *inbox) report(next time.Time) {
	if i.gap == nil {
		return
	}
	g := command.Gap{What: i.gap.Error(), Records: -1, Next: next}
	if n, known := i.gap.Lost(); known {
		g.Records = n
	}
	i.commands.Gone(g)
	i.gap = nil
}

// Accepted implements command.Consumer.
func (i *inbox) Accepted() { i.accepted.Store(i.given) }

// show commits the position to the group until ctx ends. Nothing depends on it.
func (i *inbox) show(ctx context.Context) {
	tick := time.NewTicker(inboxShow)
	defer tick.Stop()
	shown := int64(0)
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		next := i.accepted.Load()
		if next == shown {
			continue
		}
		if err := i.part.Commit(next); err != nil {
			i.log.Debug("read position of vehicle.commands not committed", slog.Any("err", err))
			continue
		}
		shown = next
	}
}

// recordRef identifies a record permanently. A recreated topic starts at offset 0 again, so the time is part of it.
func recordRef(partition int, offset int64, at time.Time) string {
	return fmt.Sprintf("kafka-%d-%d-%s", partition, offset, strconv.FormatInt(at.UnixMilli(), 36))
}

// startInbox starts reading all partitions of vehicle.commands, as soon as they are known.
func (a *gateway) startInbox() error {
	config, err := kafkaConfig("kafka", &a.cfg.Kafka)
	if err != nil {
		return err
	}
	reader, err := kafkaclient.NewConsumer(kafkaclient.ConsumerOptions{
		Config: config, Name: "commands", Group: a.cfg.Commands.FromKafkaGroup, Owner: a.owner(), Topics: []string{topicCommands},
		Log: a.log, Metrics: a.kafka,
	})
	if err != nil {
		return err
	}
	a.producer.Prepare(topicCommands) // creates the topic where that is configured
	oldest := func() time.Time { return a.clock.Wall().Add(-a.cfg.Commands.MaxTTL.Std()) }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		reader.Run(ctx, func(ctx context.Context, p *kafkaclient.Assignment) {
			i := &inbox{part: p, commands: a.commands, log: a.log, oldest: oldest}
			shown := make(chan struct{})
			go func() { defer close(shown); i.show(ctx) }()
			_ = a.commands.Consume(ctx, i) // ends with ctx, or with the service
			<-shown
		})
	}()
	a.life.onStop("commands from kafka", stopShort, func(limit context.Context) error {
		cancel()
		defer context.AfterFunc(limit, reader.Close)()
		<-done
		reader.Close()
		return nil
	})
	return nil
}
