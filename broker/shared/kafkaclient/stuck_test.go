package kafkaclient

import (
	"io"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

// A writer is stuck, and the cluster is not, if a broker answered or others succeeded next to each of its last tries.
func TestStuck(t *testing.T) {
	t.Parallel()
	l := &partitionWriter{t: &topic{p: &Producer{}}}
	long, short := time.Now().Add(-parkAfter-time.Second), time.Now()
	for name, tt := range map[string]struct {
		since  time.Time
		err    error
		beside int
		want   bool
	}{
		"others take":                      {long, io.ErrUnexpectedEOF, failuresAmongSuccesses, true},
		"others take, for a moment":        {short, io.ErrUnexpectedEOF, failuresAmongSuccesses, false},
		"others took once":                 {long, io.ErrUnexpectedEOF, 1, false},
		"nobody takes":                     {long, io.ErrUnexpectedEOF, 0, false},
		"a broker says so":                 {long, kafka.NotEnoughReplicas, 0, true},
		"a broker has said so for a while": {short, kafka.NotEnoughReplicas, 0, false},
	} {
		if got := l.stuck(tt.since, tt.err, tt.beside); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	tried := time.Now()
	for ago, want := range map[time.Duration]bool{-time.Second: true, justBefore / 2: true, 2 * justBefore: false} {
		l.t.p.lastTaken.Store(tried.Add(-ago).UnixNano())
		if l.othersSucceed(tried) != want {
			t.Errorf("others took %v before the try: %v", ago, !want)
		}
	}
}
