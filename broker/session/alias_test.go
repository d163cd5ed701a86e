package session

import (
	"strings"
	"testing"
)

// A message that exceeds the client's maximum only because of its topic alias is sent without one.
func TestAliasMakesNoPacketTooLarge(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("svc", func(a *Attach) { a.MaxPacket, a.AliasMaximum = 20, 5 })
	c.subscribe(sub("t", 1))
	e.say("t", 1, strings.Repeat("x", 11), strings.Repeat("x", 12))
	e.say("t", 0, strings.Repeat("x", 14))
	for _, f := range c.take(3) {
		if f.size < 18 || f.size > 20 {
			t.Errorf("%d bytes", f.size)
		}
	}
	if n := e.dropped(dropTooLarge); n != 0 {
		t.Errorf("%v dropped as too large", n)
	}
}
