package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/trace"
	"cellgate/rules/op"
	"cellgate/rules/sink"
	"cellgate/rules/sink/sinktest"
	"cellgate/rules/sink/webhook"
	"cellgate/test/check"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testRules = `
rules:
  - id: crm
    from: ["v1/+/up/telemetry"]
    to: [{webhook: {name: crm}}]
  - id: erp
    from: ["v1/+/up/telemetry"]
    when: payload.h == 0
    transform: {n: payload.n}
    to: [{webhook: {name: erp, headers: none}}]
`

const key = "a key of a receiver"

// receiver is an HTTP endpoint that records what it has answered with 204.
type receiver struct {
	*httptest.Server

	mu     sync.Mutex
	status func(n int) int // for message n; nil: 204
	taken  []*http.Request
	bodies []string
	asked  int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) serve(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	var fields struct{ N int }
	_ = json.Unmarshal(body, &fields)
	r.mu.Lock()
	defer r.mu.Unlock()
	status := http.StatusNoContent
	if r.asked++; r.status != nil {
		status = r.status(fields.N)
	}
	if status == http.StatusNoContent {
		r.taken, r.bodies = append(r.taken, req), append(r.bodies, string(body))
	}
	w.WriteHeader(status)
}

// answer sets the receiver's answers from now on.
func (r *receiver) answer(status func(n int) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func always(status int) func(int) int { return func(int) int { return status } }

// inOrder checks that the receiver has all n messages, each vehicle's in order except for repetitions.
func (r *receiver) inOrder(t *testing.T, want int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	seen, last := map[string]bool{}, map[int]int{}
	for i, body := range r.bodies {
		id := r.taken[i].Header.Get("webhook-id")
		if seen[id] {
			continue
		}
		seen[id] = true
		var fields struct{ N int }
		check.OK(t, json.Unmarshal([]byte(body), &fields))
		if before, ok := last[fields.N%7]; ok && before > fields.N {
			t.Fatalf("message %d behind %d", fields.N, before)
		}
		last[fields.N%7] = fields.N
	}
	if len(seen) != want {
		t.Errorf("%d messages, want %d", len(seen), want)
	}
}

type rig struct {
	*sinktest.Rig
	kafka    *sinktest.Memory
	crm, erp *receiver
}

func knowWebhooks(o *sink.Options) { o.Rules.Targets = append(o.Rules.Targets, &webhook.Target) }

func newRig(t *testing.T, change func(*webhook.Endpoint)) *rig {
	t.Helper()
	r := &rig{kafka: sinktest.NewMemory(op.SinkKafka), crm: newReceiver(t), erp: newReceiver(t)}
	r.Rig = sinktest.New(t, sinktest.Setup{Rules: testRules, Change: knowWebhooks, Sinks: func() []sink.Binding {
		o := webhook.Options{
			Cell: "cell-1", Sampling: trace.NewSampling(0, "gw-1", 1), Log: slog.New(slog.DiscardHandler), Metrics: webhook.NewMetrics(nil),
			Pace: remote.Pace{BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond, PingInterval: time.Second},
		}
		for name, to := range map[string]*receiver{"crm": r.crm, "erp": r.erp} {
			e := webhook.Endpoint{
				Name: name, URL: to.URL + "/hook", Keys: [][]byte{[]byte(key), []byte("the key before it")}, Timeout: 5 * time.Second, Requests: 4,
				PrivateNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			}
			if change != nil {
				change(&e)
			}
			o.Endpoints = append(o.Endpoints, e)
		}
		s, err := webhook.New(o)
		check.OK(t, err)
		return []sink.Binding{{Sink: r.kafka}, {Sink: s}}
	}})
	return r
}

// TestRequestsAreAsTheReferenceSays checks the form of a request, and that a receiver written from the reference
// accepts it.
func TestRequestsAreAsTheReferenceSays(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	rec := sinktest.Telemetry(3)
	rec.Props.ContentType = "application/vnd.vehicle+json"
	rec.Props.User = []message.UserProperty{{Name: "webhook-id", Value: "forged"}}
	r.Append(rec)
	r.Settled()
	r.crm.inOrder(t, 1)
	r.erp.inOrder(t, 1)
	id := message.ID("gw-1", r.Journal.Epoch(), r.Journal.Last())
	got, body := r.crm.taken[0], r.crm.bodies[0]
	for name, want := range map[string]string{
		"webhook-id": id + "/crm/0", "content-type": "application/vnd.vehicle+json", "cellgate-cell": "cell-1", "cellgate-vin": sinktest.VIN(3),
		"cellgate-topic": rec.Topic, "cellgate-rule": "crm", "cellgate-target": "0",
	} {
		if got.Header.Get(name) != want {
			t.Errorf("header %s is %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if got.Method != http.MethodPost || got.URL.Path != "/hook" || body != sinktest.Payload(3) {
		t.Errorf("%s %s: %s", got.Method, got.URL, body)
	}
	if !accepts(got.Header, body, key) || !accepts(got.Header, body, "the key before it") || accepts(got.Header, body, "another key") ||
		accepts(got.Header, body+" ", key) {
		t.Errorf("the signature %q does not tell keys and bodies apart", got.Header.Get("webhook-signature"))
	}
	bare := r.erp.taken[0]
	if r.erp.bodies[0] != `{"n":3}` || bare.Header.Get("content-type") != "application/json" || !accepts(bare.Header, r.erp.bodies[0], key) {
		t.Errorf("%v: %s", bare.Header, r.erp.bodies[0])
	}
	for name := range bare.Header {
		if strings.HasPrefix(strings.ToLower(name), "cellgate-") {
			t.Errorf("headers: none, and %s is there", name)
		}
	}
	r.Stop()
}

// TestRequestsCarryTheTrace: a receiver can continue the trace of the message, as a reader of Kafka can.
func TestRequestsCarryTheTrace(t *testing.T) {
	t.Parallel()
	const sampled, silent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	r := newRig(t, nil)
	rec := sinktest.Telemetry(7) // erp takes it too, without headers
	for _, parent := range []string{sampled, silent, "not a traceparent"} {
		rec.Props.User = []message.UserProperty{{Name: trace.ParentProperty, Value: parent}}
		r.Append(rec)
		r.Settled()
	}
	rec.Props.User[0].Value = sampled
	parent, _ := trace.NewSampling(0, "gw-1", 1).Message(&rec)
	first := r.Journal.Last() - 2
	for i, want := range []string{parent.MessageSpan(first, trace.Target, "crm", "0").String(), silent, ""} {
		if got := r.crm.taken[i].Header.Get("traceparent"); got != want {
			t.Errorf("message %d: traceparent %q, want %q", i, got, want)
		}
	}
	for _, bare := range r.erp.taken {
		if got := bare.Header.Get("traceparent"); got != "" {
			t.Errorf("headers: none, and traceparent %s is there", got)
		}
	}
	r.Stop()
}

// accepts is the receiver of rules/README.md.
func accepts(h http.Header, body, key string) bool {
	at, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(at, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(h.Get("webhook-id") + "." + h.Get("webhook-timestamp") + "." + body))
	want := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for one := range strings.FieldsSeq(h.Get("webhook-signature")) {
		if hmac.Equal([]byte(one), want) {
			return true
		}
	}
	return false
}

func TestRefusedRequestsAreDeadLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.crm.answer(func(n int) int {
		if n%10 == 0 {
			return http.StatusUnprocessableEntity
		}
		return http.StatusNoContent
	})
	r.Publish(0, 100)
	r.Settled()
	if l := r.Ledger("webhook"); l.Received != 100 || l.Delivered != 90 || l.DeadLettered != 10 {
		t.Errorf("ledger %+v", l)
	}
	r.crm.inOrder(t, 90)
	r.erp.inOrder(t, 34)
	for _, m := range r.kafka.Settled() {
		if !m.Dead || m.Rule != "crm" || !strings.Contains(m.Reason, "422") {
			t.Errorf("dead letter %+v", m)
		}
	}
	r.Stop()
}

// TestStalledEndpointIsParked checks that its messages wait on disk, also over a kill, without holding up
// the other endpoint's; afterwards all come in order, and the ledger counts each once.
func TestStalledEndpointIsParked(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.crm.answer(always(http.StatusServiceUnavailable))
	r.Publish(0, 600)
	r.Await(func() bool { return len(r.Dispatcher.Parked()) == 1 })
	if p := r.Dispatcher.Parked()[0]; p.Sink != "webhook" || p.Destination != "crm" {
		t.Errorf("parked %+v", p)
	}
	r.Await(func() bool {
		r.erp.mu.Lock()
		defer r.erp.mu.Unlock()
		return len(r.erp.bodies) >= 200
	})
	r.Await(func() bool { p := r.Dispatcher.Parked(); return len(p) == 1 && p[0].Messages == 600 })
	r.Balanced()
	check.OK(t, r.Dispatcher.Checkpoint())
	r.Kill()
	r.Open()
	r.Publish(600, 300)
	r.crm.answer(nil)
	r.Settled()
	if l := r.Ledger("webhook"); l.Received != 900 || l.Delivered != 900 {
		t.Errorf("ledger %+v", l)
	}
	r.crm.inOrder(t, 900)
	r.erp.inOrder(t, 300)
	r.Await(func() bool { return len(r.Dispatcher.Parked()) == 0 })
	r.Publish(900, 100)
	r.Settled()
	r.crm.inOrder(t, 1000)
	r.Stop()
}

// TestWhatComesAndGoesKeepsItsOrder checks the order with answers of every kind while messages come.
func TestWhatComesAndGoesKeepsItsOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	n := 0
	r.crm.answer(func(int) int {
		n++
		return []int{204, 500, 204, 429, 204, 401, 204, 302}[n/5%8]
	})
	for i := range 5 {
		r.Publish(i*100, 100)
	}
	r.Settled()
	if l := r.Ledger("webhook"); l.Received != 500 || l.Delivered != 500 {
		t.Errorf("ledger %+v", l)
	}
	r.crm.inOrder(t, 500)
	r.Stop()
}

// TestAnEndpointThatHangsIsParked checks that unanswered requests hold up neither the other endpoint nor the stop.
func TestAnEndpointThatHangsIsParked(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	r := newRig(t, func(e *webhook.Endpoint) {
		if e.Name == "crm" {
			e.Timeout = 100 * time.Millisecond
		}
	})
	r.crm.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-hang:
			r.crm.serve(w, req)
		case <-req.Context().Done():
		case <-time.After(10 * time.Second):
		}
	})
	r.Publish(0, 1500)
	r.Await(func() bool { p := r.Dispatcher.Parked(); return len(p) == 1 && p[0].Destination == "crm" })
	r.Await(func() bool {
		r.erp.mu.Lock()
		defer r.erp.mu.Unlock()
		return len(r.erp.bodies) >= 500
	})
	close(hang)
	r.Settled()
	r.crm.inOrder(t, 1500)
	r.Stop()
}

// TestPrivateAddressesAreNotReached checks that they are reached neither by a name that only resolves at connect, nor
// by a redirect.
func TestPrivateAddressesAreNotReached(t *testing.T) {
	t.Parallel()
	inner := newReceiver(t)
	r := newRig(t, func(e *webhook.Endpoint) {
		if e.Name == "crm" {
			e.URL, e.PrivateNetworks = strings.Replace(e.URL, "127.0.0.1", "localhost", 1), nil
		}
	})
	r.erp.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, inner.URL, http.StatusPermanentRedirect)
	})
	r.Append(sinktest.Telemetry(0))
	r.Await(func() bool {
		for _, h := range r.Dispatcher.Health() {
			if h.Name == "webhook" && !h.OK && strings.Contains(h.Reason, "not a public one") {
				return true
			}
		}
		return false
	})
	r.Await(func() bool { return r.Ledger("webhook").Pending == 1 })
	if r.crm.asked != 0 || inner.asked != 0 {
		t.Errorf("%d requests reached a private address, %d one behind a redirect", r.crm.asked, inner.asked)
	}
	r.Kill()
}

func TestAMissingEndpointIsADeadLetter(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.Apply(`rules: [{id: a, from: ["v1/+/up/telemetry"], to: [{webhook: {name: gone}}]}]`)
	r.Publish(0, 3)
	r.Settled()
	if l := r.Ledger("webhook"); l.DeadLettered != 3 || len(r.kafka.Settled()) != 3 {
		t.Errorf("ledger %+v", l)
	}
	r.Stop()
}
