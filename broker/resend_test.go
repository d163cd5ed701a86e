package broker

import (
	"slices"
	"testing"

	"cellgate/broker/frame"
	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// repeatedPublish encodes a QoS 1 PUBLISH with DUP.
func repeatedPublish(version byte, id uint16, topic, payload string) []byte {
	f := publishFrame(version, 1, id, topic, payload)
	f[0] |= 0x08
	return f
}

// A message that is repeated after a reconnect is journaled with the identity of the first, also after a restart of the
// gateway. No other message counts as repeated.
func TestRepeatedPublishKeepsItsIdentity(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		versions(t, func(t *testing.T, version byte) {
			h := newHarness(t)
			resume := mqtt.Connect{Keep: true, Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 3600)}} // one hour
			topic := "v1/" + testVIN + "/up/telemetry"
			c := h.connect("lab", "bench", version, resume)
			c.Send(publishFrame(version, 1, 5, topic, "first"), publishFrame(version, 1, 6, topic, "second"))
			c.ExpectFrame(0x40, puback(5)...)
			c.ExpectFrame(0x40, puback(6)...)
			_ = c.Conn.Close()
			if restart {
				h.stop()
				h = openHarness(t, h.dir)
			}
			c = h.connect("lab", "bench", version, resume)
			c.Send(repeatedPublish(version, 5, topic, "first"), repeatedPublish(version, 6, topic, "another"),
				publishFrame(version, 1, 7, topic, "second"), repeatedPublish(version, 5, topic, "first"))
			for _, id := range []uint16{5, 6, 7, 5} {
				c.ExpectFrame(0x40, puback(id)...)
			}
			records := h.records(6)
			for i, want := range []uint64{0, 0, records[0].Seq, 0, 0, records[0].Seq} {
				if records[i].Original != want {
					t.Errorf("restart %v: record %d (%s) repeats %d, want %d", restart, i, records[i].Payload, records[i].Original, want)
				}
			}
		})
	}
}

// A new session has nothing to repeat: DUP is the client's mistake there.
func TestNewSessionRepeatsNothing(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	topic := "v1/" + testVIN + "/up/telemetry"
	c := h.connect("lab", "bench", frame.Version311, mqtt.Connect{Keep: true})
	c.Send(publishFrame(frame.Version311, 1, 5, topic, "x"))
	c.ExpectFrame(0x40, puback(5)...)
	_ = c.Conn.Close()
	c = h.connect("lab", "bench", frame.Version311, mqtt.Connect{})
	c.Send(repeatedPublish(frame.Version311, 5, topic, "x"))
	c.ExpectFrame(0x40, puback(5)...)
	if r := h.records(2)[1]; r.Original != 0 {
		t.Errorf("repeats %d", r.Original)
	}
}

func TestRecentSentIsBounded(t *testing.T) {
	t.Parallel()
	var r recentSent
	for i := range 100 {
		r.add(sent{seq: uint64(i + 1), id: uint16(i), sum: 7}, 8)
	}
	if len(r.list) != 8 || r.find(91, 7) != 0 || r.find(92, 7) != 93 || r.find(99, 7) != 100 || r.find(99, 8) != 0 {
		t.Errorf("%+v", r)
	}
	var all resends
	for i := range maxResendClients + 10 {
		all.leave(string(rune(i))+"x", recentSent{list: []sent{{seq: 1}}})
	}
	if len(all.away) > maxResendClients {
		t.Errorf("%d clients remembered, want at most %d", len(all.away), maxResendClients)
	}
}

// releasing is a journal that releases its first two records after it has been asked for the first one.
type releasing struct {
	Journal
	asked bool
}

func (j *releasing) First() uint64 {
	if !j.asked {
		j.asked = true
		return 1
	}
	return 3
}

func (j *releasing) NewReader(from uint64) (*journal.Reader, error) {
	if from < 3 {
		return nil, journal.ErrTrimmed
	}
	return j.Journal.NewReader(from)
}

// TestRecallWhileRecordsAreReleased: what consumers have passed may be released while a start reads the tail.
func TestRecallWhileRecordsAreReleased(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for id := range uint16(4) {
		last, err := h.journal.Append([]message.Record{{Kind: message.KindPublish, Client: "V", Topic: "v1/V/up/a", QoS: 1, PacketID: id + 1}}, nil)
		check.OK(t, err)
		check.OK(t, h.journal.WaitDurable(t.Context(), last))
	}
	var r resends
	check.OK(t, r.recall(&releasing{Journal: h.journal}, 8))
	var ids []uint16
	for _, s := range r.back("V", true).list {
		ids = append(ids, s.id)
	}
	if !slices.Equal(ids, []uint16{3, 4}) {
		t.Errorf("recalled %v, want 3 and 4", ids)
	}
}
