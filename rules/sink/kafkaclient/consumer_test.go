package kafkaclient

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// While a topic is missing, kafka-go ends each generation as soon as it has begun. The member must not keep the
// coordinator busy with that.
func TestConsumerWaitsForATopicThatIsNotThere(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "here"))
	var joins atomic.Int64
	c.ControlKey(kmsg.JoinGroup.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		joins.Add(1)
		return nil, nil, false
	})
	m, err := NewConsumer(ConsumerOptions{
		Config: Config{Brokers: c.ListenAddrs(), RequestTimeout: 2 * time.Second},
		Group:  "g", Topics: []string{"here", "nowhere"}, RejoinBackoff: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := m.Run(ctx, func(ctx context.Context, _ *Assignment) { <-ctx.Done() }); err != nil {
		t.Fatal(err)
	}
	if n := joins.Load(); n < 2 || n > 20 { // two a generation at the most, which lasts for 200 ms at the least
		t.Errorf("joined %d times in two seconds", n)
	}
}
