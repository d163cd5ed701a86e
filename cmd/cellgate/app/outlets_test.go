package app

import (
	"context"
	"errors"
	"testing"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// TestEveryTargetHasItsSink: a sink handles the targets of its own descriptor.
func TestEveryTargetHasItsSink(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	for i, l := range a.dispatch.Ledger() {
		if kind := string(Targets()[i].Kind); l.Sink != kind {
			t.Errorf("sink %s delivers to %s", l.Sink, kind)
		}
	}
}

// closingSink counts calls of Close.
type closingSink struct {
	sink.Sink
	closed *int
}

func (s closingSink) Close(context.Context) error {
	*s.closed++
	return nil
}

func TestSinksAreClosedWhenALaterOneCannotBeMade(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	closed := 0
	works := func(*trust, *kafkaclient.Metrics) (sink.Sink, error) { return closingSink{closed: &closed}, nil }
	fails := func(*trust, *kafkaclient.Metrics) (sink.Sink, error) { return nil, errors.New("no such file") }
	bindings, err := a.trust.bind([]outlet{{&op.Kafka, ageOut, works}, {&op.Redis, ageOut, works}, {&op.MQTT, ageOut, fails}}, nil)
	if err == nil || bindings != nil || closed != 2 {
		t.Errorf("%d of 2 closed, %v, %v", closed, bindings, err)
	}
}
