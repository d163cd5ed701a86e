package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// Refused commands do not fill the outbox beyond its bound.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &kafka{err: errors.New("away")}
		s := start(t, Options{Deliverer: newEngine(0), Publish: k.Publish, MaxEvents: 3})
		for i := range 10 {
			err := s.Command(t.Context(), &message.Record{
				Kind: message.KindPublish, Client: "app", Topic: fmt.Sprintf("v1/%s/cmd/c%d/lock", vin, i),
				ReceivedAt: time.Now().UnixMilli(),
			})
			check.OK(t, err)
		}
		flush(t, s)
		synctest.Wait()
		if got := s.Stat().Waiting; got != 3 {
			t.Errorf("%d events wait, want 3", got)
		}
		if got := testutil.ToFloat64(s.metrics.dropped.WithLabelValues("full")); got != 7 {
			t.Errorf("%v counted as dropped, want 7", got)
		}
		stop(t, s)
	})
}

// lines counts log records.
type lines struct {
	slog.Handler
	n atomic.Int64
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }

func (l *lines) Handle(context.Context, slog.Record) error {
	if l.n.Add(1) > 1000 {
		time.Sleep(time.Minute) // or the bubble's clock would never move
	}
	return nil
}

// While the store fails, due commands are retried at intervals.
func TestExpiryWithoutStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, log := openDB(t), &lines{}
		s := start(t, Options{DB: db, Deliverer: newEngine(0), Log: slog.New(log)})
		create(t, s, Request{ID: "c1", TTL: time.Second})
		check.OK(t, db.Close())
		time.Sleep(11 * time.Second)
		stop(t, s)
		if n := log.n.Load(); n < 1 || n > 20 {
			t.Errorf("tried %d times in ten seconds", n)
		}
	})
}

// A backlog of Kafka records and results takes no room from requests.
func TestBacklogLeavesRoomForRequests(t *testing.T) {
	t.Parallel()
	i := newInbox() // nothing empties it
	ctx, cancel := context.WithCancel(t.Context())
	for range maxFollowed {
		check.OK(t, i.put(ctx, &request{must: true}))
	}
	if err := i.put(ctx, &request{}); err != nil {
		t.Errorf("a request: %v", err)
	}
	cancel()
	if err := i.put(ctx, &request{must: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("one more of the backlog: %v", err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	var refused []string
	s := start(t, Options{
		Deliverer: newEngine(0), MaxQueued: 2, MaxOpen: 4,
		Refused: func(reason string) { refused = append(refused, reason) },
	})
	ctx := context.Background()
	of := func(origin, by string) Caller { return Caller{Origin: origin, By: by} }
	one, two := of(OriginHTTP, "one"), of(OriginKafka, "two")
	create(t, s, Request{Caller: one})
	first := create(t, s, Request{Caller: one})
	if _, _, err := s.Create(ctx, Request{VIN: vin, Name: "x", Caller: two}); !errors.Is(err, errQueueFull) {
		t.Errorf("third of the vehicle: %v", err)
	}
	if _, _, err := s.Create(ctx, Request{VIN: "OTHER", Name: "x", Caller: one}); !errors.Is(err, errBusy) {
		t.Errorf("beyond the sender's half: %v", err)
	}
	_, err := s.Cancel(ctx, one, vin, first.ID)
	check.OK(t, err)
	create(t, s, Request{VIN: "OTHER", Caller: one}) // its place is free again
	create(t, s, Request{VIN: "OTHER", Caller: two})
	create(t, s, Request{VIN: "THIRD", Caller: of(OriginKafka, "another name for two")})
	for _, c := range []Caller{of(OriginKafka, "three"), of(OriginHTTP, "three")} {
		if _, _, err := s.Create(ctx, Request{VIN: "THIRD", Name: "x", Caller: c}); !errors.Is(err, errBusy) {
			t.Errorf("beyond Kafka's half, or the cell's bound: %v", err)
		}
	}
	if fmt.Sprint(refused) != "[command_queue_full command_busy command_busy command_busy]" {
		t.Errorf("refused %v", refused)
	}
}
