package harness

import (
	"io"
	"net"
	"regexp"
	"testing"

	"cellgate/test/check"
)

// RedisView is one client's path to a group of Redis servers: a Link to each. Server addresses in replies of servers
// and sentinels are replaced by those of the links, so that a client stays on its path.
type RedisView struct {
	Links []*Link // in the order of the addresses
	ports map[string]string
}

// NewRedisView makes links to servers that all listen on 127.0.0.1.
func NewRedisView(t testing.TB, name string, addrs ...string) *RedisView {
	t.Helper()
	v := &RedisView{ports: map[string]string{}}
	var listeners []net.Listener
	for _, addr := range addrs {
		listener, err := net.Listen("tcp", FreeAddr(t))
		check.OK(t, err)
		t.Cleanup(func() { _ = listener.Close() })
		listeners = append(listeners, listener)
		link := NewLink(t, name, listener.Addr().String())
		_, server, _ := net.SplitHostPort(addr)
		_, own, _ := net.SplitHostPort(link.Addr)
		v.ports[server] = own
		v.Links = append(v.Links, link)
	}
	for i, listener := range listeners { // all ports are known now
		go v.serve(listener, addrs[i])
	}
	return v
}

// serve accepts connections to a server whose replies must be translated.
func (v *RedisView) serve(l net.Listener, server string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go v.pass(c, server)
	}
}

// pass copies one connection until either side ends it.
func (v *RedisView) pass(c net.Conn, server string) {
	defer func() { _ = c.Close() }()
	s, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(s, c)
		_ = s.Close()
	}()
	buf := make([]byte, 256<<10)
	for {
		n, err := s.Read(buf)
		if n > 0 {
			if _, err := c.Write(v.rename(buf[:n])); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// address matches the port in a reply: of a sentinel, CLUSTER SLOTS, MOVED, +switch-master. All ports of tests have
// five digits, so lengths do not change.
var address = regexp.MustCompile(`(127\.0\.0\.1(?::| |\r\n:|\r\n\$5\r\n|\r\n\$4\r\nport\r\n\$5\r\n))(\d{5})`)

func (v *RedisView) rename(answer []byte) []byte {
	return address.ReplaceAllFunc(answer, func(found []byte) []byte {
		at := len(found) - 5
		if own := v.ports[string(found[at:])]; own != "" {
			return append(append([]byte{}, found[:at]...), own...)
		}
		return found
	})
}
