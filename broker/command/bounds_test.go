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

	"cellgate/broker/message"
)

// Refused commands do not fill the outbox beyond its bound.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &kafka{err: errors.New("away")}
		s := start(t, Options{Deliverer: newEngine(0), Publisher: k, MaxEvents: 3})
		for i := range 10 {
			err := s.Command(t.Context(), &message.Record{
				Kind: message.KindPublish, Client: "app", Topic: fmt.Sprintf("v1/%s/cmd/c%d/lock", vin, i),
				ReceivedAt: time.Now().UnixMilli(),
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		flush(t, s)
		synctest.Wait()
		if got := s.Stat().Waiting; got != 3 {
			t.Errorf("%d events wait, want 3", got)
		}
		if got := counter(t, s.metrics.dropped.WithLabelValues("full")); got != 7 {
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

// What is due while the store fails is tried now and then.
func TestExpiryWithoutStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, log := openDB(t), &lines{}
		s := start(t, Options{DB: db, Deliverer: newEngine(0), Log: slog.New(log)})
		create(t, s, Request{ID: "c1", TTL: time.Second})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		stop(t, s)
		if n := log.n.Load(); n < 1 || n > 20 {
			t.Errorf("tried %d times in ten seconds", n)
		}
	})
}

// A backlog of Kafka and results takes no place from requests.
func TestBacklogLeavesRoomForRequests(t *testing.T) {
	t.Parallel()
	i := newInbox() // that nobody empties
	ctx, cancel := context.WithCancel(t.Context())
	for range maxFollowed {
		if err := i.put(ctx, &request{must: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.put(ctx, &request{}); err != nil {
		t.Errorf("a request: %v", err)
	}
	cancel()
	if err := i.put(ctx, &request{must: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("one more of the backlog: %v", err)
	}
}
