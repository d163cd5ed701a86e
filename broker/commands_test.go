package broker

import (
	"context"
	"errors"
	"strings"
	"testing"

	"cellgate/auth"
	"cellgate/broker/command"
	"cellgate/broker/frame"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// heldCommands is a command service whose decisions the test makes.
type heldCommands struct {
	submitted chan submittedCommand
	err       error
}

type submittedCommand struct {
	rec       message.Record
	from      command.Caller
	refusable bool
	answer    func(reason byte, text string)
}

func (h *heldCommands) Submit(_ context.Context, rec *message.Record, from command.Caller, refusable bool, answer func(byte, string)) error {
	if h.err != nil {
		return h.err
	}
	s := submittedCommand{rec: rec.Clone(), from: from, refusable: refusable, answer: answer}
	s.rec.Topic = strings.Clone(rec.Topic)
	h.submitted <- s
	return nil
}

func withCommands(h *heldCommands) setup {
	h.submitted = make(chan submittedCommand, 64)
	return func(o *Options) { o.Command = h.Submit }
}

const commandTopic = "v1/" + testVIN + "/cmd/c1/lock"

// A command is acknowledged with the service's decision, and in its turn: later PUBLISHes wait. It is not journaled.
func TestCommandIsAcknowledgedAsDecided(t *testing.T) {
	t.Parallel()
	for _, qos := range []byte{1, 2} {
		typ := byte(0x40)
		if qos == 2 {
			typ = 0x50
		}
		held := &heldCommands{}
		h := newHarness(t, withCommands(held))
		c := h.connect("lab", "lab-1", frame.Version5, mqtt.Connect{})
		c.Send(publishFrame(frame.Version5, qos, 1, commandTopic, "{}"), publishFrame(frame.Version5, qos, 2, commandTopic, "{}"),
			publishFrame(frame.Version5, 1, 3, "t", "behind"))
		first, second := <-held.submitted, <-held.submitted
		if first.rec.Topic != commandTopic || !first.refusable || first.from.By != "lab-1" || first.from.Role != "lab" || first.from.Address == "" {
			t.Errorf("submitted %+v", first)
		}
		if recs := h.records(1); recs[0].Topic != "t" {
			t.Errorf("journaled %+v", recs[0])
		}
		second.answer(frame.ReasonQuotaExceeded, "")
		c.Send([]byte{0xC0, 0})
		c.ExpectFrame(0xD0)
		first.answer(0, "")
		c.ExpectFrame(typ, puback(1)...)
		c.ExpectFrame(typ, append(puback(2), frame.ReasonQuotaExceeded)...)
		c.ExpectFrame(0x40, puback(3)...)
	}
}

// A refusing PUBREC ends the exchange and frees its identifier. An accepted command proceeds to PUBCOMP, and
// repetitions in between are answered again.
func TestCommandByQoS2(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		held := &heldCommands{}
		h := newHarness(t, withCommands(held))
		c := h.connect("lab", "lab-1", version, mqtt.Connect{})
		publish := publishFrame(version, 2, 7, commandTopic, "{}")
		if version == frame.Version5 {
			c.Send(publish)
			(<-held.submitted).answer(frame.ReasonImplementation, "")
			c.ExpectAck(mqtt.PUBREC, 7, frame.ReasonImplementation)
		}
		again := append([]byte{publish[0] | 8}, publish[1:]...)
		for _, f := range [][]byte{publish, again} {
			c.Send(f)
			(<-held.submitted).answer(0, "")
			c.ExpectFrame(0x50, puback(7)...)
		}
		c.Send(mqtt.Frame(0x62, puback(7)))
		c.ExpectFrame(0x70, puback(7)...)
	})
}

// MQTT 3.1.1 has no refusing acknowledgement. If the service answers a refusal anyway, the connection ends.
func TestRefusedCommandEndsOldClient(t *testing.T) {
	t.Parallel()
	held := &heldCommands{}
	h := newHarness(t, withCommands(held))
	c := h.connect("lab", "lab-1", frame.Version311, mqtt.Connect{})
	c.Send(publishFrame(frame.Version311, 1, 1, commandTopic, "{}"))
	s := <-held.submitted
	if s.refusable {
		t.Error("a 3.1.1 client passes for one that can be told no")
	}
	s.answer(frame.ReasonTopicInvalid, "")
	if first, body, err := c.ReadFrame(); err == nil {
		t.Errorf("got %#x % x", first, body)
	}
}

// A command that the service does not take is not acknowledged.
func TestRefusedCommandIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		h := newHarness(t, withCommands(&heldCommands{err: errors.New("closing")}))
		c := h.connect("lab", "lab-1", version, mqtt.Connect{})
		c.Send(publishFrame(version, 1, 1, commandTopic, "{}"))
		first, body, err := c.ReadFrame()
		if err == nil && first != 0xE0 {
			t.Errorf("got %#x % x", first, body)
		}
	})
}

// Only a PUBLISH on v1/{vin}/cmd/{id}/{name} of another client is a command.
func TestWhatIsACommand(t *testing.T) {
	t.Parallel()
	held := &heldCommands{}
	h := newHarness(t, withCommands(held))
	c := h.connect("lab", testVIN+"x", frame.Version5, mqtt.Connect{})
	topics := []string{"v1/V/cmd/c1", "v1/V/cmd/c1/lock/now", "v1/V/res/c1/x", "v1/" + testVIN + "x/cmd/c1/lock"}
	for i, topic := range topics {
		c.Send(publishFrame(frame.Version5, 1, uint16(i+1), topic, "{}"))
		c.ExpectFrame(0x40, puback(uint16(i+1))...)
	}
	if len(held.submitted) > 0 {
		t.Errorf("submitted %+v", <-held.submitted)
	}
	c.Send(publishFrame(frame.Version5, 0, 0, "v1/V/cmd//", "{}"))
	s := <-held.submitted
	if s.refusable {
		t.Error("QoS 0 has no answer")
	}
	s.answer(frame.ReasonTopicInvalid, "")
	c.Send([]byte{0xC0, 0})
	c.ExpectFrame(0xD0)
}

// A client without the command scope is refused without asking the service.
func TestCommandWithoutScope(t *testing.T) {
	t.Parallel()
	held := &heldCommands{}
	h := newHarness(t, withCommands(held))
	token, _, err := h.auth.Issue(auth.IssueRequest{Subject: "billing", Role: auth.RoleService, Scopes: []string{auth.ScopeTelemetryRead}})
	check.OK(t, err)
	c := h.connect("tokens", "billing", frame.Version5, mqtt.Connect{User: "billing", Password: token})
	c.Send(publishFrame(frame.Version5, 1, 1, commandTopic, "{}"))
	c.ExpectAck(mqtt.PUBACK, 1, frame.ReasonNotAuthorized)
	if len(held.submitted) > 0 {
		t.Errorf("submitted %+v", <-held.submitted)
	}
}

// The levels of a response topic are bounded like those of a published topic.
func TestResponseTopicIsBoundedInLevels(t *testing.T) {
	t.Parallel()
	held := &heldCommands{}
	h := newHarness(t, withCommands(held), func(o *Options) { o.Limits.MaxTopicLevels = 8 })
	c := h.connect("lab", "lab-1", frame.Version5, mqtt.Connect{})
	c.Send(publishFrame(frame.Version5, 0, 0, commandTopic, "{}"))
	s := <-held.submitted
	if !s.from.Respond("a/b/c/d/e/f/g/h") || s.from.Respond("a/b/c/d/e/f/g/h/i") {
		t.Error("levels of a response topic are not bounded as those of topics are")
	}
}
