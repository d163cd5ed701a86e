package stable

import (
	"context"
	"errors"
	"testing"
	"time"
)

// reads returns one answer after the other, the last one repeatedly.
func reads(answers ...string) (read func() (string, string, error), count *int) {
	n := 0
	return func() (string, string, error) {
		a := answers[min(n, len(answers)-1)]
		n++
		if a == "gone" {
			return "", "", errors.New(a)
		}
		return a, a, nil
	}, &n
}

func TestReadWaitsUntilTwoReadsAgree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		answers []string
		want    string
		reads   int
	}{
		{[]string{"a"}, "a", 2},
		{[]string{"", "half", "whole"}, "whole", 4},
		{[]string{"old", "new", "old", "new"}, "new", 5},
		{[]string{"gone", "a"}, "a", 3},
		{[]string{"a", "gone"}, "gone", 3},
	} {
		read, n := reads(c.answers...)
		got, err := readEvery(t.Context(), 0, read)
		if err != nil {
			got = err.Error()
		}
		if got != c.want || *n != c.reads {
			t.Errorf("%q: %q after %d reads, want %q after %d", c.answers, got, *n, c.want, c.reads)
		}
	}
}

func TestReadGivesUp(t *testing.T) {
	t.Parallel()
	n := 0
	_, err := readEvery(t.Context(), 0, func() (int, string, error) { n++; return n, string(rune('a' + n)), nil })
	var changing *ChangingError
	if !errors.As(err, &changing) || n != maxReads {
		t.Errorf("%v after %d reads", err, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readEvery(ctx, time.Hour, func() (int, string, error) { return 0, "", nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
