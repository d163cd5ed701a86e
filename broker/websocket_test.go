package broker

import (
	"io"
	"net"
	"testing"
	"time"

	"cellgate/test/check"
)

// A socket that never becomes a WebSocket is closed, both after an answer and with a body that does not arrive.
func TestHTTPKeepsNoSocket(t *testing.T) {
	t.Parallel()
	h := newHarness(t, webSocketListener, func(o *Options) { o.Limits.HandshakeTimeout = 200 * time.Millisecond })
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /mqtt HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
		"GET /mqtt HTTP/1.1\r\nHost: x\r\n",
	} {
		c, err := net.Dial("tcp", h.b.Addrs()["cars"].String())
		check.OK(t, err)
		_, err = io.WriteString(c, request)
		check.OK(t, err)
		check.OK(t, c.SetReadDeadline(time.Now().Add(testPatience/3)))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%q: still open: %v", request, err)
		}
		_ = c.Close()
	}
}
