package harness

import (
	"io"
	"net"
	"testing"
	"time"

	"cellgate/test/check"
)

// Traffic over a WideLink is delayed by half a round trip, all connections share the rate, and the bytes are counted.
func TestWideLink(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // lives as long as the test
	check.OK(t, err)
	defer func() { _ = l.Close() }()
	const each, rate, rtt = 200_000, 1e6, 100 * time.Millisecond
	line := NewWideLink(t, rate, rtt)
	addr, began := line.To(l.Addr().String()), time.Now()
	for range 2 {
		c, err := net.Dial("tcp", addr) //nolint:noctx // as above
		check.OK(t, err)
		_, err = c.Write(make([]byte, each))
		check.OK(t, err)
		check.OK(t, c.Close())
	}
	for range 2 {
		c, err := l.Accept()
		check.OK(t, err)
		n, err := io.Copy(io.Discard, c)
		if err != nil || n != each {
			t.Errorf("%d bytes came, %v", n, err)
		}
		check.OK(t, c.Close())
	}
	if took, least := time.Since(began), rtt/2+time.Second*2*each/rate; took < least {
		t.Errorf("%s for what takes %s", took, least)
	}
	if up, _ := line.Carried(); up != 2*each {
		t.Errorf("%d bytes carried", up)
	}
}
