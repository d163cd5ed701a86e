package session

import (
	"context"
	"errors"
	"testing"

	"cellgate/broker/shared/message"
)

func TestAwaitFanout(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	at := e.m.fan.reached
	if err := e.m.AwaitFanout(ctx, at); err != nil {
		t.Fatal(err)
	}
	results := make(chan error, 3)
	for _, seq := range []uint64{at + 2, at + 1, at + 1} {
		go func() { results <- e.m.AwaitFanout(ctx, seq) }()
	}
	e.m.Fanout(&message.Record{Kind: message.KindPublish, Seq: at + 1, Topic: "a"})
	for range 2 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	e.m.Advance(at + 2)
	if err := <-results; err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := e.m.AwaitFanout(ctx, at+3); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}
