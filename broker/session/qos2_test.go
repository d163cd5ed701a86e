package session

import (
	"maps"
	"slices"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

// take2 plays the connection's part for a QoS 2 PUBLISH: receive, append, report the sequence.
func (e *env) take2(c *conn, id uint16) (duplicate bool) {
	e.t.Helper()
	if _, duplicate = c.s.ReceiveQoS2(id, false, "", nil); duplicate {
		return true
	}
	recs := []message.Record{{Kind: message.KindPublish, Client: "V", Topic: "v1/V/up/x", QoS: 2, PacketID: id}}
	_, err := e.journal.Append(recs)
	check.OK(e.t, err)
	c.s.JournaledQoS2(id, recs[0].Seq)
	return false
}

// release2 plays the connection's part for a PUBREL.
func (e *env) release2(c *conn, id uint16) (known bool) {
	e.t.Helper()
	if !c.s.ReleaseQoS2(id) {
		return false
	}
	_, err := e.journal.Append([]message.Record{{Kind: message.KindRelease, Client: "V", PacketID: id}})
	check.OK(e.t, err)
	return true
}

// fanAll lets the fan-out catch up with the journal.
func (e *env) fanAll() {
	for _, rec := range e.journal.from(e.m.fan.reached + 1) {
		e.m.Fanout(&rec)
	}
}

func (e *env) inUse() []uint16 {
	e.t.Helper()
	st := e.m.lookup("V")
	if st == nil || st.incoming == nil {
		return nil
	}
	var ids []uint16
	for id := range st.incoming.ids {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func TestIncomingIdentifiers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("V", vehicle)
	if e.take2(c, 1) || !e.take2(c, 1) || e.take2(c, 2) {
		t.Error("duplicate told wrongly")
	}
	if !e.release2(c, 1) || e.release2(c, 1) || e.release2(c, 9) {
		t.Error("release told wrongly")
	}
	if e.take2(c, 1) {
		t.Error("a released identifier is still in use")
	}
	c.s.ReceiveQoS2(3, false, "", nil)
	c.s.CancelQoS2(3) // the append failed
	c.s.ReceiveQoS2(4, false, "", nil)
	c.detach(false) // the connection died before its append
	c, _ = e.attach("V", vehicle)
	if got, want := e.inUse(), []uint16{1, 2}; !slices.Equal(got, want) {
		t.Errorf("in use %v, want %v", got, want)
	}
	c.detach(false)
	e.attach("V", vehicle, clean)
	if got := e.inUse(); got != nil {
		t.Errorf("in use after a clean start: %v", got)
	}
}

// TestIncomingIdentifiersSurvive kills with the checkpoint at every position among the records, with and without the
// journal's tail. After the restart an identifier must be in use exactly when its message is in the journal and its
// release is not.
func TestIncomingIdentifiersSurvive(t *testing.T) {
	t.Parallel()
	type step struct {
		id      uint16
		release bool
	}
	steps := []step{{1, false}, {2, false}, {1, true}, {3, false}, {1, false}, {2, true}, {4, false}}
	for checkpoint := range len(steps) + 1 {
		for lost := range 3 {
			e := newEnv(t)
			c, _ := e.attach("V", vehicle)
			for i, s := range steps {
				if i == checkpoint && uint64(i) <= uint64(len(steps)-lost) {
					e.fanAll()
					e.checkpoint()
				}
				if s.release {
					e.release2(c, s.id)
				} else {
					e.take2(c, s.id)
				}
			}
			var want []uint16
			for _, s := range steps[:len(steps)-lost] {
				if s.release {
					want = slices.DeleteFunc(want, func(id uint16) bool { return id == s.id })
				} else {
					want = append(want, s.id)
				}
			}
			slices.Sort(want)
			e.journal.lose(uint64(len(steps) - lost))
			e.kill()
			if got := e.inUse(); !slices.Equal(got, want) {
				t.Errorf("checkpoint before step %d, %d records lost: in use %v, want %v", checkpoint, lost, got, want)
			}
		}
	}
}

// TestIncomingIdentifierOnItsWay makes the writer cut between ReceiveQoS2 and JournaledQoS2. Only the journal decides
// whether the identifier counts.
func TestIncomingIdentifierOnItsWay(t *testing.T) {
	t.Parallel()
	for name, durable := range map[string]bool{"journaled": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			c, _ := e.attach("V", vehicle)
			e.take2(c, 1)
			e.fanAll()
			c.s.ReceiveQoS2(2, false, "", nil)
			if durable {
				recs := []message.Record{{Kind: message.KindPublish, Client: "V", Topic: "v1/V/up/x", QoS: 2, PacketID: 2}}
				_, err := e.journal.Append(recs)
				check.OK(t, err)
				e.fanAll() // the position passes the record before JournaledQoS2
			}
			e.checkpoint()
			e.kill()
			want := []uint16{1}
			if durable {
				want = []uint16{1, 2}
			}
			if got := e.inUse(); !slices.Equal(got, want) {
				t.Errorf("in use %v, want %v", got, want)
			}
		})
	}
}

// TestIncomingIdentifiersOfAnOlderSession checks that records of an ended session do not affect a newer one.
func TestIncomingIdentifiersOfAnOlderSession(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("V", vehicle, volatile)
	e.take2(c, 5)
	c.detach(false)
	c, _ = e.attach("V", vehicle)
	e.take2(c, 6)
	e.kill()
	if got, want := e.inUse(), []uint16{6}; !slices.Equal(got, want) {
		t.Errorf("in use %v, want %v", got, want)
	}
}

func TestIncomingIdentifiersOfAnotherJournal(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("V", vehicle)
	e.take2(c, 5)
	e.fanAll()
	e.checkpoint()
	e.journal.epoch = 8
	e.journal.lose(0)
	e.kill()
	if got := e.inUse(); got != nil || e.m.Position() != 0 || e.m.ReplayFrom() != 1 {
		t.Errorf("in use %v, position %d", got, e.m.Position())
	}
}

func TestReplayedSessionReset(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	c, _ := e.attach("V", vehicle)
	e.take2(c, 5)
	_, err := e.journal.Append([]message.Record{{Kind: message.KindSessionReset, Client: "V"}})
	check.OK(t, err)
	e.take2(c, 6)
	e.kill()
	if got, want := e.inUse(), []uint16{6}; !slices.Equal(got, want) {
		t.Errorf("in use %v, want %v", got, want)
	}
}

// TestIdentifierOfAnotherGateway: an identifier that the cell's session still has may have been released at the other gateway. Only
// a repeat of its message is taken for one.
func TestIdentifierOfAnotherGateway(t *testing.T) {
	t.Parallel()
	there := &oneSession{}
	several := func(o *Options) { o.Cell = there }
	from := newEnv(t, several)
	c, _ := from.attach("V", vehicle)
	const topic = "v1/V/up/a"
	for id, text := range map[uint16]string{1: "one", 2: "two", 3: "three", 4: "four"} {
		c.s.ReceiveQoS2(id, false, topic, []byte(text))
		c.s.JournaledQoS2(id, uint64(id))
	}
	there.session, _, _ = from.m.Portable("V")
	to := newEnv(t, several)
	c, _ = to.attach("V", vehicle)
	repeats := func(id uint16, dup bool, text string, want bool) {
		t.Helper()
		if _, got := c.s.ReceiveQoS2(id, dup, topic, []byte(text)); got != want {
			t.Errorf("%q under %d, DUP %v, is a repeat: %v", text, id, dup, got)
		}
	}
	repeats(1, true, "one", true)
	repeats(1, false, "one", false)  // clients set DUP when they repeat
	repeats(1, false, "two", true)   // it is this gateway's own now
	repeats(2, true, "three", false) // the first copy was sent to a gateway that was killed
	if !c.s.ReleaseQoS2(3) {
		t.Error("an identifier is not released")
	}
	c.s.CancelQoS2(1)
	c.s.CancelQoS2(2)
	to.take2(c, 5)
	to.restart()
	c, _ = to.attach("V", vehicle, func(*Attach) { there.session = nil })
	repeats(4, false, "four", false)
	if _, again := c.s.ReceiveQoS2(5, true, "", nil); !again {
		t.Error("an identifier of this gateway is not in use after a restart")
	}
}

// TestIncomingEncoding: identifiers with and without sums are read as they were written, and every part of the value is refused.
func TestIncomingEncoding(t *testing.T) {
	t.Parallel()
	in := &incoming{ids: map[uint16]receipt{1: {seq: 300}, 256: {seq: 5, sum: 9}, 3: {seq: 70, sum: 8}, 4: {pending: true}}}
	all, _, _ := in.encode(nil)
	out, ok := decodeIncoming(all, 299)
	delete(in.ids, 1)
	delete(in.ids, 4)
	if !ok || !maps.Equal(in.ids, out.ids) {
		t.Errorf("%x: %v, want %v", all, out, in)
	}
	whole := map[int]bool{0: true, 4: true, 6: true, 17: true, len(all): true}
	for n := range all {
		if _, ok := decodeIncoming(all[:n], 299); ok != whole[n] {
			t.Errorf("%x is whole: %v", all[:n], ok)
		}
	}
}
