package message

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestAppendTimeIsAppendFormat(t *testing.T) {
	t.Parallel()
	check := func(ms int64) {
		if got, want := string(AppendTime([]byte("x"), ms)), "x"+time.UnixMilli(ms).UTC().Format(TimeLayout); got != want {
			t.Errorf("%d: %s, want %s", ms, got, want)
		}
	}
	for _, ms := range []int64{0, -1, 1, 999, 951782400000, 1763600000123, 253402300799999, 253402300800000, -62167219200000, -62167219200001} {
		check(ms)
	}
	for range 10_000 {
		check(rand.Int64N(1<<48) - 1<<46)
	}
}

func BenchmarkAppendTime(b *testing.B) {
	var dst []byte
	b.Run("by hand", func(b *testing.B) {
		for b.Loop() {
			dst = AppendTime(dst[:0], 1763600000123)
		}
	})
	b.Run("AppendFormat", func(b *testing.B) {
		for b.Loop() {
			dst = time.UnixMilli(1763600000123).UTC().AppendFormat(dst[:0], TimeLayout)
		}
	})
}
