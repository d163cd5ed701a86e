package broker

import "testing"

// TestCarryLeavesRoom checks that there is room to read after any length of carry: a read into an empty slice looks
// like the end of the connection.
func TestCarryLeavesRoom(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, minReadBytes - 1, minReadBytes, minReadBytes + 1, readBytes, readBytes + 1, 200 << 10} {
		c := &conn{b: &Broker{pools: newPools()}, reader: connReader{carry: make([]byte, n)}}
		if s := c.borrow(); s.n != n || len(s.buf) <= n {
			t.Errorf("%d bytes carried: %d in a buffer of %d", n, s.n, len(s.buf))
		}
	}
}

// TestScratchGrows checks that a scratch stays small until a read fills it.
func TestScratchGrows(t *testing.T) {
	t.Parallel()
	s := newPools().getScratch()
	if s.reset(); len(s.base) != minReadBytes {
		t.Errorf("%d bytes at first", len(s.base))
	}
	s.filled = true
	if s.reset(); len(s.base) != readBytes || len(s.buf) != readBytes || s.filled {
		t.Errorf("%d bytes after a read that filled it", len(s.base))
	}
}
