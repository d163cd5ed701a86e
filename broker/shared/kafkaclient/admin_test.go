package kafkaclient

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// TestCreateDry checks that a trial leaves no topic and does not wait for one.
func TestCreateDry(t *testing.T) {
	t.Parallel()
	c := fakekafka.Cluster(t, kfake.SeedTopics(1, "there"))
	a := Admin{Config{Brokers: c.ListenAddrs(), ClientID: "test", RequestTimeout: time.Hour, Timing: NormalTiming()}}
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	for _, name := range []string{"one", "two", "there"} {
		check.OK(t, a.Create(ctx, name, -1, -1, true))
	}
	check.OK(t, ctx.Err())
	states, err := a.Topics(ctx, []string{"one", "two", "there"})
	check.OK(t, err)
	for i, missing := range []bool{true, true, false} {
		if states[i].Missing != missing {
			t.Errorf("%+v", states[i])
		}
	}
	check.OK(t, a.Create(ctx, "one", 2, -1, false))
}
