package harness

import (
	"io"
	"net"
	"testing"
	"time"

	"cellgate/test/check"
)

// Outcomes of sending a word to an echo server over a link.
const (
	refused = "refused"
	broken  = "broken" // the connection ended before all of the word was back
	back    = "back"
)

func echo(t *testing.T, l *Link, word string) string {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr)
	if err != nil {
		return refused
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, word)
	if _, err := io.ReadFull(c, make([]byte, len(word))); err != nil {
		return broken
	}
	return back
}

// TestLink checks that every fault of a link has its effect and that Heal removes it.
func TestLink(t *testing.T) {
	t.Parallel()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	t.Cleanup(func() { _ = server.Close() })
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	l := NewLink(t, "echo", server.Addr().String())
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"well", func() {}, back},
		{"requests cut", func() { l.Afflict(Toxic{Type: "limit_data", Attributes: map[string]int64{"bytes": 3}}) }, broken},
		{"healed", l.Heal, back},
		{"answers cut", func() {
			l.Afflict(Toxic{Type: "limit_data", Stream: "downstream", Attributes: map[string]int64{"bytes": 2}})
		}, broken},
		{"healed again", l.Heal, back},
		{"cut", l.Cut, refused},
		{"mended", l.Restore, back},
	} {
		step.do()
		if got := echo(t, l, "hello"); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
}
