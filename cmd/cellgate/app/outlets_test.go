package app

import (
	"context"
	"errors"
	"testing"

	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// TestEveryTargetHasASink: what a rule can name is delivered.
func TestEveryTargetHasASink(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	there := map[string]bool{}
	for _, l := range a.dispatch.Ledger() {
		there[l.Sink] = true
	}
	for _, target := range op.Targets() {
		if !there[string(target.Kind)] {
			t.Errorf("nothing delivers to %s", target.Kind)
		}
	}
}

// closingSink counts what is closed.
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
	works := func() (sink.Sink, error) { return closingSink{closed: &closed}, nil }
	fails := func() (sink.Sink, error) { return nil, errors.New("no such file") }
	bindings, err := a.trust.bind([]outlet{{"hold", works}, {"hold", works}, {"hold", fails}})
	if err == nil || bindings != nil || closed != 2 {
		t.Errorf("%d of 2 closed, %v, %v", closed, bindings, err)
	}
}
