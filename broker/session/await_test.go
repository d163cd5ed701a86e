package session

import (
	"context"
	"errors"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

func TestAwaitFanout(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	at := e.m.fan.reached
	check.OK(t, e.m.AwaitFanout(ctx, at))
	results := make(chan error, 3)
	for _, seq := range []uint64{at + 2, at + 1, at + 1} {
		go func() { results <- e.m.AwaitFanout(ctx, seq) }()
	}
	e.m.Fanout(&message.Record{Kind: message.KindPublish, Seq: at + 1, Topic: "a"})
	for range 2 {
		check.OK(t, <-results)
	}
	e.m.Advance(at + 2)
	check.OK(t, <-results)
	cancel()
	if err := e.m.AwaitFanout(ctx, at+3); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}
