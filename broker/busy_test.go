package broker

import (
	"testing"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// slowJournal accepts records only after gate is closed, like a journal with a full buffer.
type slowJournal struct {
	Journal
	gate chan struct{}
}

func (j slowJournal) Append(recs []message.Record, w journal.Waiter) (uint64, error) {
	<-j.gate
	return j.Journal.Append(recs, w)
}

// While the journal has no room, the client is not read and its keep alive is suspended.
func TestKeepaliveWhileTheJournalIsSlow(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHarness(t, func(o *Options) { o.Journal = slowJournal{o.Journal, gate} })
	c := h.connect("cars", testVIN, 5, mqtt.Connect{Keepalive: 1})
	c.Send(publishFrame(5, 1, 1, "v1/"+testVIN+"/up/x", "x"))
	served := h.b.wheel.all(nil)[0]
	begun := h.b.wheel.clock.Load()
	check.Eventually(t, "the keep alive would be over", func() bool {
		return h.b.wheel.clock.Load()-begun > 2*served.keepalive
	})
	close(gate)
	c.ExpectFrame(0x40, puback(1)...)
	c.Send([]byte{0xC0, 0})
	c.ExpectFrame(0xD0)
}
