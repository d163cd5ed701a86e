package app

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// receiver takes traces by OTLP.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*otlp.Span
	heads []http.Header
}

// receive starts a receiver with TLS and returns it with the file of its authority.
func receive(t *testing.T, dir string) (r *receiver, ca string) {
	t.Helper()
	r = &receiver{}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := r.take(req); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(r.Close)
	ca = filepath.Join(dir, "otlp-ca.crt")
	check.OK(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}), 0o600))
	return r, ca
}

func (r *receiver) take(req *http.Request) error {
	body := io.Reader(req.Body)
	if req.Header.Get("Content-Encoding") == "gzip" {
		plain, err := gzip.NewReader(body)
		if err != nil {
			return err
		}
		body = plain
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var got collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &got); err != nil || req.URL.Path != "/v1/traces" {
		return fmt.Errorf("%s: %w", req.URL.Path, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heads = append(r.heads, req.Header)
	for _, of := range got.GetResourceSpans() {
		for _, scope := range of.GetScopeSpans() {
			r.spans = append(r.spans, scope.GetSpans()...)
		}
	}
	return nil
}

// named returns the span of a trace with that name, nil while there is none.
func (r *receiver) named(trace, name string) *otlp.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if hex.EncodeToString(s.GetTraceId()) == trace && s.GetName() == name {
			return s
		}
	}
	return nil
}

// await waits for the spans of a trace.
func (r *receiver) await(t *testing.T, trace string, names ...string) map[string]*otlp.Span {
	t.Helper()
	all := map[string]*otlp.Span{}
	for _, name := range names {
		check.Eventually(t, "the span "+name, func() bool {
			all[name] = r.named(trace, name)
			return all[name] != nil
		})
		if s := all[name]; s.GetEndTimeUnixNano() < s.GetStartTimeUnixNano() || s.GetStartTimeUnixNano() == 0 {
			t.Errorf("%s: from %d to %d", name, s.GetStartTimeUnixNano(), s.GetEndTimeUnixNano())
		}
	}
	return all
}

// below holds which span of a trace is whose child.
func below(t *testing.T, all map[string]*otlp.Span, child, parent string) {
	t.Helper()
	if !bytes.Equal(all[child].GetParentSpanId(), all[parent].GetSpanId()) {
		t.Errorf("%s is not a part of %s: %v", child, parent, all[child])
	}
}

const (
	vehicleTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	vehicleSpan  = "00f067aa0ba902b7"
)

// tracing starts a gateway that sends its traces to a receiver.
func tracing(t *testing.T, oneIn int) (*App, *receiver, *kfake.Cluster) {
	t.Helper()
	dir := t.TempDir()
	r, ca := receive(t, dir)
	c := fakekafka.Cluster(t)
	file := writeCentre(t, dir, c, fakekafka.Cluster(t), "")
	check.Write(t, filepath.Join(dir, "otlp.token"), "s3cret\n")
	text := check.Read(t, file)
	check.Write(t, file, string(text)+fmt.Sprintf("tracing: {endpoint: %q, one_in: %d, headers: {Authorization: \"Bearer ${file:otlp.token}\"}, tls: {ca: %q}}\n",
		r.URL+"/v1/traces", oneIn, ca))
	a, _ := boot(t, file)
	return a, r, c
}

func vehicle(t *testing.T, a *App, vin string) *mqtt.T {
	t.Helper()
	token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle})
	check.OK(t, err)
	v := mqtt.DialT(t, a.Addrs()["local"].String(), mqtt.V5, nil)
	v.Open(mqtt.Connect{Version: mqtt.V5, ID: vin, User: vin, Password: token})
	return v
}

func headerOf(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// TestSpansOfAMessage follows one PUBLISH from the vehicle over journal and rule to Kafka, and what its sender does not trace is
// not: the Kafka record names the span in which it was sent.
func TestSpansOfAMessage(t *testing.T) {
	t.Parallel()
	a, r, c := tracing(t, 0)
	const vin = "LTEST000000000001"
	v := vehicle(t, a, vin)
	for _, parent := range []string{"", "00-" + vehicleTrace + "-" + vehicleSpan + "-00", "00-" + vehicleTrace + "-" + vehicleSpan + "-01"} {
		p := mqtt.Publish{Topic: "v1/" + vin + "/up/telemetry", Payload: `{"soc": 5}`, QoS: 1}
		if parent != "" {
			p.Props = [][]byte{mqtt.User("traceparent", parent)}
		}
		v.Publish(p)
	}
	recs := fakekafka.Read(t, c, "t", 3)
	all := r.await(t, vehicleTrace, "publish telemetry", "journal", "rule a", "send kafka")
	if got := hex.EncodeToString(all["publish telemetry"].GetParentSpanId()); got != vehicleSpan {
		t.Errorf("the vehicle's span is not above the gateway's: %s", got)
	}
	below(t, all, "journal", "publish telemetry")
	below(t, all, "rule a", "publish telemetry")
	below(t, all, "send kafka", "rule a")
	want := []string{"", "00-" + vehicleTrace + "-" + vehicleSpan + "-00", "00-" + vehicleTrace + "-" + hex.EncodeToString(all["send kafka"].GetSpanId()) + "-01"}
	for i, rec := range recs[:len(want)] {
		if got := headerOf(rec, "traceparent"); got != want[i] {
			t.Errorf("record %d has traceparent %q, want %q", i, got, want[i])
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.spans); n != 4 || r.heads[0].Get("Authorization") != "Bearer s3cret" {
		t.Errorf("%d spans, %q", n, r.heads[0].Get("Authorization"))
	}
}

// TestSpansBySampling: without a trace from the sender, the gateway samples messages and starts the trace.
func TestSpansBySampling(t *testing.T) {
	t.Parallel()
	a, r, c := tracing(t, 1)
	const vin = "LTEST000000000001"
	v := vehicle(t, a, vin)
	v.Publish(mqtt.Publish{Topic: "v1/" + vin + "/up/telemetry", Payload: `{"soc": 5}`, QoS: 0})
	parent := headerOf(fakekafka.ReadDifferent(t, c, "t", 1)[0], "traceparent")
	if len(parent) != 55 {
		t.Fatalf("traceparent %q", parent)
	}
	all := r.await(t, parent[3:35], "publish telemetry", "journal", "rule a", "send kafka")
	if got := all["publish telemetry"].GetParentSpanId(); len(got) != 0 {
		t.Errorf("the trace does not begin with the message: %x", got)
	}
	check.Eventually(t, "the spans are counted", func() bool {
		return strings.Contains(metrics(t, a), `cellgate_spans_total{cell="cell-1",outcome="exported"} 4`)
	})
}

// TestSpansOfACommand follows one command from the request to its result. The vehicle gets the trace.
func TestSpansOfACommand(t *testing.T) {
	t.Parallel()
	a, r, _ := tracing(t, 0)
	const vin = "LTEST000000000001"
	v := vehicle(t, a, vin)
	v.Subscribe(mqtt.Subscription{Filter: "v1/" + vin + "/cmd/#", Options: 1})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.HTTPURL()+"/v1/vehicles/"+vin+"/commands", strings.NewReader(`{"id": "c1", "name": "lock"}`))
	check.OK(t, err)
	req.Header.Set("Authorization", "Bearer "+operator(t, a))
	req.Header.Set("traceparent", "00-"+vehicleTrace+"-"+vehicleSpan+"-01")
	resp, err := http.DefaultClient.Do(req)
	check.OK(t, err)
	answer, err := harness.ReadAnswer(resp)
	if err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatalf("%d %s %v", resp.StatusCode, answer, err)
	}
	p := v.AwaitTopic("v1/" + vin + "/cmd/c1/lock")
	v.Acknowledge(p)
	for _, state := range []string{"accepted", "succeeded"} {
		v.Publish(mqtt.Publish{Topic: "v1/" + vin + "/res/c1/" + state, QoS: 1})
	}
	all := r.await(t, vehicleTrace, "command", "command queued", "command sent", "command accepted")
	if got := hex.EncodeToString(all["command"].GetParentSpanId()); got != vehicleSpan {
		t.Errorf("the sender's span is not above the gateway's: %s", got)
	}
	for _, state := range []string{"queued", "sent", "accepted"} {
		below(t, all, "command "+state, "command")
	}
	want, got := "00-"+vehicleTrace+"-"+hex.EncodeToString(all["command sent"].GetSpanId())+"-01", []string{}
	for _, u := range p.All(0x26) {
		if u.Name == "traceparent" {
			got = append(got, u.Value)
		}
	}
	if len(got) != 1 || got[0] != want {
		t.Errorf("the vehicle was told %q, want %q", got, want)
	}
}
