package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

func TestIgnoredResults(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Deliverer: newEngine(0), MaxPayload: 8})
	create(t, s, Request{ID: "c1"})
	for name, c := range map[string]struct {
		client, topic, reason string
	}{
		"another vehicle's":      {"OTHER", "v1/" + vin + "/res/c1/succeeded", "foreign"},
		"unknown status":         {vin, "v1/" + vin + "/res/c1/done", "topic"},
		"a state of ours":        {vin, "v1/" + vin + "/res/c1/delivered", "topic"},
		"bad id":                 {vin, "v1/" + vin + "/res/a b/succeeded", "topic"},
		"too deep":               {vin, "v1/" + vin + "/res/c1/succeeded/x", "topic"},
		"unknown command":        {vin, "v1/" + vin + "/res/c9/succeeded", "unknown"},
		"command of another VIN": {"OTHER", "v1/OTHER/res/c1/succeeded", "unknown"},
		"never sent":             {vin, "v1/" + vin + "/res/c1/succeeded", "not_sent"},
	} {
		before := testutil.ToFloat64(s.metrics.ignored.WithLabelValues(c.reason))
		rec := &message.Record{Kind: message.KindPublish, Client: c.client, Topic: c.topic}
		check.OK(t, s.Result(context.Background(), rec))
		flush(t, s)
		if testutil.ToFloat64(s.metrics.ignored.WithLabelValues(c.reason)) != before+1 {
			t.Errorf("%s: not counted as %s", name, c.reason)
		}
	}
	if got := state(t, s, "c1"); got != Queued {
		t.Errorf("state %s", got)
	}
}

func TestLargeAndBinaryResults(t *testing.T) {
	t.Parallel()
	e := newEngine(5)
	s := start(t, Options{Deliverer: e, MaxPayload: 8})
	for _, id := range []string{"large", "binary"} {
		create(t, s, Request{ID: id})
		e.next(t)
	}
	result(t, s, "large", Succeeded, `"0123456789"`)
	result(t, s, "binary", Succeeded, "\x00\xff")
	if cmd, _ := s.Get(context.Background(), vin, "large"); cmd.State != Succeeded || cmd.Cause != "result_too_large" || cmd.Result != nil {
		t.Errorf("large: %+v", cmd)
	}
	if cmd, _ := s.Get(context.Background(), vin, "binary"); !bytes.Equal(cmd.ResultBase64, []byte{0, 0xff}) || cmd.Result != nil {
		t.Errorf("binary: %+v", cmd)
	}
}

func TestCommandByMQTT(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &kafka{}
		e := newEngine(5)
		s := start(t, Options{Deliverer: e, Publish: k.Publish, MaxQueued: 2})
		publish := func(topic, payload string, expiry uint32) {
			t.Helper()
			rec := &message.Record{
				Kind: message.KindPublish, Client: "control/1", Topic: topic, Payload: []byte(payload),
				ReceivedAt: time.Now().UnixMilli(),
			}
			rec.Props.Expiry, rec.Props.HasExpiry = expiry, expiry > 0
			check.OK(t, s.Command(t.Context(), rec))
			flush(t, s)
			clear(rec.Payload) // the owner reuses the record
		}
		publish("v1/"+vin+"/cmd/m1/lock", `{"a": 1}`, 0)
		publish("v1/"+vin+"/cmd/m1/lock", `{"a": 1}`, 0)   // the journal repeats it
		publish("v1/"+vin+"/cmd/m1/unlock", `{"a": 1}`, 0) // a conflict
		publish("v1/"+vin+"/cmd/m2/lock", "\xff\xfe", 5)
		publish("v1/"+vin+"/cmd/m3/lock", "1", 0)      // the queue is full
		publish("v1/"+vin+"/cmd/m 4/lock", "1", 0)     // no id
		publish("v1/"+vin+"/cmd/m5/two/levels", "", 0) // no name
		if d := e.next(t); string(d.Payload) != `{"a":1}` || d.Props.ContentType != "application/json" {
			t.Errorf("m1 delivered %q %+v", d.Payload, d.Props)
		}
		if d := e.next(t); string(d.Payload) != "\xff\xfe" || d.Props.ContentType != "" {
			t.Errorf("m2 delivered %q", d.Payload)
		}
		m2, err := s.Get(context.Background(), vin, "m2")
		if err != nil || m2.ExpiresAt-m2.CreatedAt != 5000 || m2.Origin != "mqtt" || m2.By != "control/1" {
			t.Errorf("m2: %+v, %v", m2, err)
		}
		synctest.Wait()
		for id, want := range map[string]string{"m1": "[queued]", "m3": "[rejected]", "m5": "[rejected]"} {
			if got := fmt.Sprint(k.states(t, id)); got != want {
				t.Errorf("%s: events %s, want %s", id, got, want)
			}
		}
		if len(e.arrived) > 0 {
			t.Error("more was delivered")
		}
		stop(t, s)
	})
}

// topic replaces a consumer of vehicle.commands.
type topic struct {
	mu       sync.Mutex
	batches  [][]Message
	failures int
	next     int
	accepted int
}

func (c *topic) Partition() string { return "vehicle.commands/0" }

func (c *topic) Resume(_ context.Context, position []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next, _ = strconv.Atoi(string(position)) // none is 0
	return nil
}

func (c *topic) Fetch(ctx context.Context) ([]Message, []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failures > 0 {
		c.failures--
		return nil, nil, errors.New("away")
	}
	if c.next < len(c.batches) {
		c.next++
		return c.batches[c.next-1], []byte(strconv.Itoa(c.next)), nil
	}
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	return nil, nil, ctx.Err()
}

func (c *topic) Accepted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accepted = c.next
}

func TestCommandsByKafka(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Options{Deliverer: newEngine(0)})
		now := time.Now()
		msg := func(ref, value string) Message { return Message{Ref: ref, At: now, Value: []byte(value)} }
		c := &topic{failures: 2, batches: [][]Message{
			{
				msg("k-0-1", `{"id":"a","vin":"`+vin+`","name":"lock","payload":{"x": [1, 2]},"ttl":"30s"}`),
				msg("k-0-2", `not JSON`),
				msg("k-0-3", `{"vin":"`+vin+`","name":"lock","ttl":5}`),
			},
			{msg("k-0-3", `{"vin":"`+vin+`","name":"lock","ttl":5}`), msg("k-0-4", `{"vin":"bad/vin","name":"x"}`)},
			{msg("k-0-5", `{"id":"b","vin":"`+vin+`","name":"open"}`)},
		}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Consume(ctx, c) }()
		time.Sleep(time.Minute / 2)
		synctest.Wait()
		page, _, err := s.List(context.Background(), Filter{})
		if err != nil || len(page) != 3 {
			t.Fatalf("accepted %+v, %v", page, err)
		}
		if page[2].ID != "a" || string(page[2].Payload) != `{"x":[1,2]}` || page[2].TTL != "30s" || page[1].ID != "k-0-3" || page[0].TTL != "1m" {
			t.Errorf("accepted %+v", page)
		}
		if c.accepted != 3 {
			t.Errorf("%d batches accepted", c.accepted)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Consume ended with %v", err)
		}
		stop(t, s)
	})
}

// The times of a command's states never run back, although the vehicle's word has the time of its record.
func TestTimesDoNotRunBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, e := &kafka{}, newEngine(5)
		s := start(t, Options{Deliverer: e, Publish: k.Publish})
		create(t, s, Request{ID: "c1", TTL: time.Minute})
		e.next(t).Acked(0)
		synctest.Wait()
		for i, status := range []string{"accepted", "succeeded"} {
			check.OK(t, s.Result(t.Context(), &message.Record{
				Topic: "v1/" + vin + "/res/c1/" + status, Client: vin, ReceivedAt: time.Now().UnixMilli() - int64(i) - 1,
			}))
			synctest.Wait()
		}
		var last string
		for _, e := range k.all() {
			var v eventValue
			check.OK(t, json.Unmarshal(e.Value, &v))
			if v.At < last {
				t.Errorf("%s at %s, after %s", v.State, v.At, last)
			}
			last = v.At
		}
		if cmd, err := s.Get(t.Context(), vin, "c1"); err != nil || cmd.State != Succeeded || cmd.AcceptedAt < cmd.DeliveredAt || cmd.FinishedAt < cmd.AcceptedAt {
			t.Errorf("%+v, %v", cmd, err)
		}
		stop(t, s)
	})
}

// A record with a member that the gateway does not know is refused as over HTTP, and its sender learns it: a mistyped ttl
// must not become the default one.
func TestUnknownMembersAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &kafka{}
		s := start(t, Options{Deliverer: newEngine(0), Publish: k.Publish})
		values := map[string]string{
			"unknown": `{"id":"unknown","vin":"` + vin + `","name":"lock","tll":"1h"}`,
			"two":     `{"id":"two","vin":"` + vin + `","name":"lock","payload":1,"payload_base64":"eA=="}`,
			"ttl":     `{"id":"ttl","vin":"` + vin + `","name":"lock","ttl":"soon"}`,
			"behind":  `{"id":"behind","vin":"` + vin + `","name":"lock"}`,
		}
		c := &topic{batches: [][]Message{nil}}
		for id, value := range values {
			c.batches[0] = append(c.batches[0], Message{Ref: "k-" + id, At: time.Now(), Value: []byte(value)})
		}
		consume(t, s, c)
		for id, want := range map[string]string{"unknown": "tll", "two": "exclude each other", "ttl": "not a duration", "behind": ""} {
			cmd, err := s.Get(t.Context(), vin, id)
			if (err == nil) != (want == "") {
				t.Errorf("%s: %+v, %v", id, cmd, err)
			}
			found := slices.ContainsFunc(k.all(), func(e Event) bool {
				var v eventValue
				check.OK(t, json.Unmarshal(e.Value, &v))
				return v.ID == id && (v.State == Rejected) == (want != "") && strings.Contains(v.Cause, want)
			})
			if !found {
				t.Errorf("%s: no event of %d says %q", id, len(k.all()), want)
			}
		}
		stop(t, s)
	})
}

// consume has the service read the topic from its position.
func consume(t *testing.T, s *Service, c *topic) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Consume(ctx, c) }()
	synctest.Wait()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The position is in the transaction of the commands: after a restart no record is read again, even if its command is
// forgotten.
func TestKafkaGoesOnAtItsPosition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "state.db")
		c := &topic{batches: [][]Message{{{Ref: "k-0-1", At: time.Now(), Value: []byte(`{"vin":"` + vin + `","name":"lock","ttl":"1h"}`)}}}}
		for run := range 2 {
			db, err := statefile.Open(file, statefile.Options{Sync: statefile.SyncNever})
			check.OK(t, err)
			s := start(t, Options{DB: db, Deliverer: newEngine(0)})
			consume(t, s, c)
			page, _, err := s.List(context.Background(), Filter{})
			if err != nil || len(page) != 1-run {
				t.Fatalf("run %d: %+v, %v", run, page, err)
			}
			if run == 0 {
				_, err := s.Cancel(t.Context(), Caller{}, vin, "k-0-1")
				check.OK(t, err)
				err = s.submit(t.Context(), true, func(b *batch) error {
					rec, err := b.t.byID("k-0-1")
					if err != nil {
						return err
					}
					return errors.Join(b.t.forget(rec), b.t.done().Delete(doneKey(rec.done(), rec.Seq)))
				})
				check.OK(t, err)
			}
			stop(t, s)
			check.OK(t, db.Close())
		}
	})
}

// A record read after its time to live creates no command: it is counted, and its sender gets the event expired. A
// record accepted before is only a repetition.
func TestStaleRecordsAreSkipped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &kafka{}
		var refused []string
		e := newEngine(5)
		s := start(t, Options{Deliverer: e, Publish: k.Publish, Refused: func(reason string) { refused = append(refused, reason) }})
		value := []byte(`{"id":"a","vin":"` + vin + `","name":"lock","ttl":"2s"}`)
		late := []byte(`{"id":"b","vin":"` + vin + `","name":"lock","ttl":"2s"}`)
		at := time.Now()
		consume(t, s, &topic{batches: [][]Message{{{Ref: "k-0-1", At: at, Value: value}}}})
		e.next(t)
		time.Sleep(3 * time.Second)
		consume(t, s, &topic{batches: [][]Message{nil, {{Ref: "k-0-1", At: at, Value: value}, {Ref: "k-0-2", At: at, Value: late}}}})
		if _, err := s.Get(context.Background(), vin, "b"); !errors.Is(err, ErrNotFound) || len(e.arrived) > 0 {
			t.Errorf("the stale command: %v, %d delivered", err, len(e.arrived))
		}
		synctest.Wait()
		if got := fmt.Sprint(k.states(t, "b"), refused); got != "[expired] [command_expired]" {
			t.Errorf("told and counted: %s", got)
		}
		stop(t, s)
	})
}

func TestEnvelope(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version byte
		json    bool
		payload string
		want    string
	}{
		{5, true, `{"a":1}`, `{"a":1}`},
		{4, true, `{"a":1}`, `{"id":"c1","name":"lock","issued_at":"%s","expires_at":"%s","payload":{"a":1}}`},
		{4, false, "\xff", `{"id":"c1","name":"lock","issued_at":"%s","expires_at":"%s","payload_base64":"/w=="}`},
	} {
		e := newEngine(c.version)
		s := start(t, Options{Deliverer: e, Envelope: true})
		cmd := create(t, s, Request{ID: "c1", Payload: []byte(c.payload), JSON: c.json})
		want := c.want
		if c.version == 4 {
			want = fmt.Sprintf(want, cmd.CreatedAt, cmd.ExpiresAt)
		}
		if d := e.next(t); string(d.Payload) != want {
			t.Errorf("version %d: %s\nwant %s", c.version, d.Payload, want)
		}
	}
}
