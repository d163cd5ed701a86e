package command

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// aliased returns text that shares b, as a connection's buffer does.
func aliased(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// submit publishes a command by MQTT and returns the reason code of its acknowledgement.
func submit(t *testing.T, s *Service, refusable bool, topic, payload string, change ...func(*message.Record, *Caller)) byte {
	t.Helper()
	packet := []byte(topic)
	rec := &message.Record{Kind: message.KindPublish, QoS: 1, Client: "control/1", Topic: aliased(packet), Payload: []byte(payload)}
	from := Caller{By: "control", Role: "service", Address: "10.0.0.1:9"}
	for _, c := range change {
		c(rec, &from)
	}
	for i := range rec.Props.User {
		u := &rec.Props.User[i]
		name, value := []byte(u.Name), []byte(u.Value)
		u.Name, u.Value = aliased(name), aliased(value)
		defer clear(name)
		defer clear(value)
	}
	answers := make(chan byte, 2)
	check.OK(t, s.Submit(t.Context(), rec, from, refusable, func(reason byte, _ string) { answers <- reason }))
	clear(rec.Payload) // the owner reuses the record
	clear(rec.Props.Correlation)
	clear(packet)
	select {
	case reason := <-answers:
		return reason
	case <-time.After(time.Minute):
		t.Fatal("not answered")
		return 0
	}
}

// audited collects entries of the audit log.
type audited struct {
	mu    sync.Mutex
	lines []string
}

func (a *audited) write(e Audited) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lines = append(a.lines, strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s %s: %s %s",
		e.Action, e.Caller.Origin, e.Caller.By, e.VIN, e.ID, e.Name, e.Outcome, e.Reason)))
}

// take returns the lines since the last call.
func (a *audited) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	lines := a.lines
	a.lines = nil
	return lines
}

// A published command is acknowledged once it is decided, with the reason: no refusal looks like success. A client that
// cannot receive a code finds the refusal in the results.
func TestSubmit(t *testing.T) {
	t.Parallel()
	topic := func(id string) string { return "v1/" + vin + "/cmd/" + id + "/lock" }
	forbidden := func(_ *message.Record, c *Caller) { c.May = func(string, string) bool { return false } }
	long := func(r *message.Record, _ *Caller) { r.Props.HasExpiry, r.Props.Expiry = true, 8*24*3600 }
	for _, c := range []struct {
		what, topic, payload string
		change               func(*message.Record, *Caller)
		v5, v311             byte
		event                string // for 3.1.1
		audit                string
	}{
		{"new", topic("n1"), "{}", nil, 0, 0, "queued", "accepted"},
		{"known, the same", topic("known"), "{}", nil, 0, 0, "queued", "repeated"},
		{"known, other content", topic("known"), "1", nil, reasonImplementation, 0, "queued", "refused conflict"},
		{"too large", topic("n2"), "123456789", nil, reasonQuota, 0, "rejected", "refused too_large"},
		{"full", "v1/FULL/cmd/n3/lock", "{}", nil, reasonQuota, 0, "rejected", "refused queue_full"},
		{"bad id", topic("a b"), "{}", nil, reasonTopicInvalid, reasonTopicInvalid, "", "refused topic"},
		{"no id", topic(""), "{}", nil, reasonTopicInvalid, reasonTopicInvalid, "", "refused topic"},
		{"no name", "v1/" + vin + "/cmd/n4/", "{}", nil, reasonTopicInvalid, reasonTopicInvalid, "", "refused topic"},
		{"not permitted", topic("n5"), "{}", forbidden, reasonNotAuthorized, reasonNotAuthorized, "", "refused not_permitted"},
		{"too long to live", topic("n7"), "{}", long, reasonImplementation, 0, "rejected", "refused invalid"},
	} {
		for _, refusable := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", c.what, refusable), func(t *testing.T) {
				t.Parallel()
				k, log := &kafka{err: errors.New("away")}, &audited{}
				s := start(t, Options{
					Deliverer: newEngine(0), Publish: k.Publish, Audit: log.write, MaxPayload: 8, MaxQueued: 2,
				})
				create(t, s, Request{ID: "full1", VIN: "FULL"})
				create(t, s, Request{ID: "full2", VIN: "FULL"})
				if reason := submit(t, s, true, topic("known"), "{}"); reason != 0 {
					t.Fatalf("a good command: reason %#x", reason)
				}
				log.take()
				change := c.change
				if change == nil {
					change = func(*message.Record, *Caller) {}
				}
				want, event := c.v5, c.event
				if !refusable {
					want = c.v311
				} else if event == "rejected" {
					event = "" // the code reports the refusal
				}
				if got := submit(t, s, refusable, c.topic, c.payload, change); got != want {
					t.Errorf("reason %#x, want %#x", got, want)
				}
				if lines := log.take(); len(lines) != 1 || !strings.HasPrefix(lines[0], "command mqtt control ") || !strings.HasSuffix(lines[0], ": "+c.audit) {
					t.Errorf("audited %q, want %q", lines, c.audit)
				}
				flush(t, s)
				stop(t, s)
				_, _, rest := message.SplitTopic(c.topic)
				id, _, _ := strings.Cut(rest, "/")
				if got := eventsOf(t, s, id); got != event {
					t.Errorf("told of %s: %q, want %q", id, got, event)
				}
			})
		}
	}
}

// eventsOf returns the states in the waiting events of a command.
func eventsOf(t *testing.T, s *Service, id string) string {
	t.Helper()
	events, err := s.oldest()
	check.OK(t, err)
	waiting := &kafka{events: events}
	return strings.Trim(fmt.Sprint(waiting.states(t, id)), "[]")
}

// A decision that could not be written is neither acknowledged nor refused permanently, on either version.
func TestSubmitToAFailingStore(t *testing.T) {
	t.Parallel()
	db, log := openDB(t), &audited{}
	s := start(t, Options{DB: db, Deliverer: newEngine(0), Audit: log.write})
	check.OK(t, db.Close())
	for _, refusable := range []bool{true, false} {
		if reason := submit(t, s, refusable, "v1/"+vin+"/cmd/c1/lock", "{}"); reason != reasonUnspecified {
			t.Errorf("refusable %v: reason %#x", refusable, reason)
		}
		if lines := log.take(); len(lines) != 1 || !strings.HasSuffix(lines[0], "refused store") {
			t.Errorf("audited %q", lines)
		}
	}
}

// A command is on disk when its acknowledgement is given.
func TestSubmitIsOnDiskBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	s := start(t, Options{DB: db, Deliverer: newEngine(0)})
	var cp *statefile.DB
	answered := make(chan struct{})
	rec := &message.Record{Kind: message.KindPublish, Client: "control", Topic: "v1/" + vin + "/cmd/c1/lock", Payload: []byte("{}")}
	err := s.Submit(t.Context(), rec, Caller{By: "control"}, true, func(byte, string) { cp = snapshot(t, db); close(answered) })
	check.OK(t, err)
	<-answered
	r := start(t, Options{DB: cp, Deliverer: newEngine(0)})
	if got := state(t, r, "c1"); got != Queued {
		t.Errorf("after a kill: %s", got)
	}
}

// Every request is audited once, with its outcome, whatever its origin.
func TestAuditOfEveryEntrance(t *testing.T) {
	t.Parallel()
	log, e := &audited{}, newEngine(0)
	s := start(t, Options{Deliverer: e, Audit: log.write, MaxQueued: 3})
	server := api(t, s)
	path := "/v1/vehicles/" + vin + "/commands"
	kafkaValue := func(id string) string { return `{"id":"` + id + `","vin":"` + vin + `","name":"lock"}` }
	fromKafka := func(value, by string) {
		check.OK(t, s.accept(t.Context(), []Message{{Ref: "kafka-0-7", At: time.Now(), By: by, Value: []byte(value)}}, "vehicle.commands/0", []byte("1")))
		flush(t, s)
	}
	for _, c := range []struct {
		do   func()
		want string
	}{
		{func() { call(t, server, "POST", path, `{"name":"lock","id":"h1"}`, "Caller", "svc") }, "command http svc VIN h1 lock: accepted"},
		{func() { call(t, server, "POST", path, `{"name":"lock","id":"h1"}`, "Caller", "svc") }, "command http svc VIN h1 lock: repeated"},
		{func() { call(t, server, "POST", path, `{"name":"open","id":"h1"}`, "Caller", "svc") }, "command http svc VIN h1 open: refused conflict"},
		{func() { call(t, server, "POST", path, `{"name":"a/b","id":"h2"}`, "Caller", "svc") }, "command http svc VIN h2 a/b: refused topic"},
		{func() {
			call(t, server, "POST", path, `{"name":"open","id":"h2"}`, "Caller", "svc", "Forbidden", "open")
		}, "command http svc VIN h2 open: refused not_permitted"},
		{func() { call(t, server, "DELETE", path+"/h1", "", "Caller", "svc", "Forbidden", "lock") }, "cancel http svc VIN h1 lock: refused not_permitted"},
		{func() { call(t, server, "DELETE", path+"/h1", "", "Caller", "ops") }, "cancel http ops VIN h1 lock: cancelled"},
		{func() { call(t, server, "DELETE", path+"/h9", "", "Caller", "ops") }, "cancel http ops VIN h9 : refused not_found"},
		{func() { submit(t, s, true, "v1/"+vin+"/cmd/m1/lock", "{}") }, "command mqtt control VIN m1 lock: accepted"},
		{func() { fromKafka(kafkaValue("k1"), "planner") }, "command kafka planner VIN k1 lock: accepted"},
		{func() { fromKafka(kafkaValue("k1"), "") }, "command kafka kafka VIN k1 lock: repeated"},
		{func() { fromKafka(kafkaValue("k2"), "") }, "command kafka kafka VIN k2 lock: accepted"},
		{func() { fromKafka(kafkaValue("k3"), "") }, "command kafka kafka VIN k3 lock: refused queue_full"},
		{func() { fromKafka("not JSON", "") }, "command kafka kafka  kafka-0-7 : refused invalid"},
		{func() {
			if _, err := s.Cancel(t.Context(), Caller{By: "purge", Origin: OriginGateway}, vin, "k2"); err != nil {
				t.Error(err)
			}
		}, "cancel gateway purge VIN k2 lock: cancelled"},
	} {
		c.do()
		if got, want := log.take(), strings.Replace(c.want, "VIN", vin, 1); len(got) != 1 || got[0] != want {
			t.Errorf("audited %q, want %q", got, want)
		}
	}
	e.set(5, nil)
	s.OnReady(vin)
	e.next(t)
	if _, err := s.Cancel(t.Context(), Caller{By: "ops"}, vin, "m1"); !errors.Is(err, ErrNotCancellable) {
		t.Errorf("Cancel: %v", err)
	}
	if got := log.take(); len(got) != 1 || !strings.HasSuffix(got[0], "m1 lock: refused not_cancellable") {
		t.Errorf("audited %q", got)
	}
}
