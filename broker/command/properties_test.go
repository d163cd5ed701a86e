package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
)

func with(change func(p *message.Properties)) func(*message.Record, *Caller) {
	return func(r *message.Record, c *Caller) {
		change(&r.Props)
		c.Respond = func(topic string) bool { return strings.HasPrefix(topic, "mine/") }
	}
}

// A sender's properties reach the vehicle, also after a restart, except for the response topic and the gateway's own
// names.
func TestPropertiesReachTheVehicle(t *testing.T) {
	t.Parallel()
	db, e := openDB(t), newEngine(0)
	s := start(t, Options{DB: db, Deliverer: e})
	for id, change := range map[string]func(*message.Properties){
		"p1": func(p *message.Properties) {
			p.Correlation, p.ResponseTopic = []byte{0, 0xff}, "mine/1"
			p.User = []message.UserProperty{{Name: "trace", Value: "1"}, {Name: "expires-at", Value: "never"}, {Name: "trace", Value: "2"}}
		},
		"p2": func(p *message.Properties) { p.Correlation, p.ContentType = []byte{}, "text/plain" },
		"p3": func(*message.Properties) {},
	} {
		if code := submit(t, s, true, "v1/"+vin+"/cmd/"+id+"/lock", "{}", with(change)); code != 0 {
			t.Fatalf("%s: reason %#x", id, code)
		}
	}
	stop(t, s)
	s = start(t, Options{DB: db, Deliverer: e})
	e.set(5, nil)
	s.OnReady(vin)
	got := map[string]message.Properties{}
	for range 3 {
		d := e.next(t)
		got[strings.Split(d.Topic, "/")[3]] = d.Props
	}
	names := func(p message.Properties) (all string) {
		for _, u := range p.User[2:] {
			all += u.Name + "=" + u.Value + " "
		}
		return p.User[0].Name + " " + p.User[1].Name + " " + all
	}
	if p := got["p1"]; names(p) != "issued-at expires-at trace=1 trace=2 " || string(p.Correlation) != "\x00\xff" || p.ResponseTopic != "" || p.ContentType != "application/json" {
		t.Errorf("p1: %+v", p)
	}
	if p := got["p2"]; p.Correlation == nil || len(p.Correlation) > 0 || p.ContentType != "text/plain" {
		t.Errorf("p2: %+v", p)
	}
	if p := got["p3"]; p.Correlation != nil || names(p) != "issued-at expires-at " {
		t.Errorf("p3: %+v", p)
	}
}

// Properties count towards a command's size, and urgent is one of them.
func TestPropertiesAreBoundedAndShowUrgency(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Deliverer: newEngine(0), MaxPayload: 32})
	user := func(name, value string) func(*message.Record, *Caller) {
		return with(func(p *message.Properties) { p.User = []message.UserProperty{{Name: name, Value: value}} })
	}
	for i, c := range []struct {
		change func(*message.Record, *Caller)
		want   byte
		urgent bool
	}{
		{user("k", strings.Repeat("x", 29)), 0, false},
		{user("k", strings.Repeat("x", 30)), reasonQuota, false},
		{with(func(p *message.Properties) { p.Correlation = make([]byte, 31) }), reasonQuota, false},
		{user("urgent", "true"), 0, true},
		{user("urgent", "false"), 0, false},
		{user("urgent", "yes"), reasonImplementation, false},
	} {
		id := fmt.Sprintf("c%d", i)
		if code := submit(t, s, true, "v1/"+vin+"/cmd/"+id+"/lock", "{}", c.change); code != c.want {
			t.Errorf("%s: reason %#x, want %#x", id, code, c.want)
		}
		if cmd, err := s.Get(context.Background(), vin, id); (err == nil) != (c.want == 0) || cmd.Urgent != c.urgent {
			t.Errorf("%s: %+v, %v", id, cmd, err)
		}
	}
}

// answers replaces the responder.
type answers struct {
	mu  sync.Mutex
	err error
	got []string
}

func (a *answers) Respond(_ context.Context, responses []Response) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	for _, r := range responses {
		var v eventValue
		_ = json.Unmarshal(r.Value, &v)
		a.got = append(a.got, fmt.Sprintf("%s %x %s %s %s", r.Topic, r.Correlation, v.ID, v.State, v.Result))
	}
	return nil
}

func (a *answers) all() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.got, "\n")
}

// Outcomes go to the response topic with the correlation data, while Kafka is away and after a restart. Intermediate
// states do not.
func TestOutcomesOnTheResponseTopic(t *testing.T) {
	t.Parallel()
	db, e, out := openDB(t), newEngine(5), &answers{err: errors.New("the journal is full")}
	k := &kafka{err: errors.New("away")}
	s := start(t, Options{DB: db, Deliverer: e, Publish: k.Publish, Respond: out.Respond})
	ask := with(func(p *message.Properties) { p.ResponseTopic, p.Correlation = "mine/1", []byte{7} })
	if code := submit(t, s, true, "v1/"+vin+"/cmd/r1/lock", "{}", ask); code != 0 {
		t.Fatalf("reason %#x", code)
	}
	if code := submit(t, s, true, "v1/"+vin+"/cmd/r2/lock", "{}"); code != 0 { // without a response topic
		t.Fatalf("reason %#x", code)
	}
	for range 2 {
		d := e.next(t)
		d.Sent()
		d.Acked(0)
	}
	for _, id := range []string{"r1", "r2"} {
		result(t, s, id, Accepted, "")
		result(t, s, id, Succeeded, `{"locked":true}`)
	}
	stop(t, s)
	if got := out.all(); got != "" {
		t.Fatalf("published %q", got)
	}
	out.err = nil
	s = start(t, Options{DB: db, Deliverer: e, Publish: k.Publish, Respond: out.Respond})
	const want = "mine/1 07 r1 accepted \nmine/1 07 r1 succeeded {\"locked\":true}"
	check.Eventually(t, "both outcomes", func() bool { return len(out.all()) >= len(want) })
	check.Eventually(t, "nothing waits", func() bool { return testutil.ToFloat64(s.metrics.answers) == 0 })
	stop(t, s)
	s = start(t, Options{DB: db, Deliverer: e, Publish: k.Publish, Respond: out.Respond})
	stop(t, s)
	if s.answers != 0 {
		t.Errorf("%d outcomes wait", s.answers)
	}
	if got := out.all(); got != want {
		t.Errorf("published\n%s\nwant\n%s", got, want)
	}
}

// Outcomes beyond the bound are dropped and counted; earlier ones are published.
func TestOutcomesAreBounded(t *testing.T) {
	t.Parallel()
	e, out := newEngine(0), &answers{err: errors.New("the journal is full")}
	s := start(t, Options{Deliverer: e, Respond: out.Respond, MaxEvents: 1})
	ask := with(func(p *message.Properties) { p.ResponseTopic = "mine/1" })
	for _, id := range []string{"r1", "r2"} {
		if code := submit(t, s, true, "v1/"+vin+"/cmd/"+id+"/lock", "{}", ask); code != 0 {
			t.Fatalf("reason %#x", code)
		}
		_, err := s.Cancel(t.Context(), Caller{}, vin, id)
		check.OK(t, err)
	}
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues("responses_full")); n != 1 {
		t.Errorf("%v dropped", n)
	}
	out.mu.Lock()
	out.err = nil
	out.mu.Unlock()
	check.Eventually(t, "the first outcome", func() bool { return out.all() == "mine/1  r1 cancelled " })
}

// A response topic that the sender may not read refuses the command.
func TestForeignResponseTopicIsRefused(t *testing.T) {
	t.Parallel()
	log := &audited{}
	s := start(t, Options{Deliverer: newEngine(0), Respond: (&answers{}).Respond, Audit: log.write})
	ask := with(func(p *message.Properties) { p.ResponseTopic = "others/1" })
	if code := submit(t, s, true, "v1/"+vin+"/cmd/r1/lock", "{}", ask); code != reasonNotAuthorized {
		t.Errorf("reason %#x", code)
	}
	if got := log.take(); len(got) != 1 || !strings.HasSuffix(got[0], ": refused response_topic") {
		t.Errorf("audited %q", got)
	}
	if _, err := s.Get(context.Background(), vin, "r1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
}
