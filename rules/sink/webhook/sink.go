package webhook

import (
	"context"
	"crypto/tls"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/metric"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/trace"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// Endpoint is an HTTP endpoint.
type Endpoint struct {
	Name string
	URL  string
	// Keys sign each request, newest first.
	Keys [][]byte
	// Timeout bounds one request, its connection included.
	Timeout time.Duration
	// Requests is the number of concurrent requests.
	Requests int
	// PrivateNetworks are the networks outside the Internet that the endpoint may be in.
	PrivateNetworks []netip.Prefix `zero:"none"`
	TLS             *tls.Config    `zero:"the system's authorities"`
}

// Options configure a Sink.
type Options struct {
	Endpoints []Endpoint `zero:"none is configured"`
	Cell      string
	// Sampling selects the traced messages.
	Sampling *trace.Sampling `zero:"none"`
	remote.Pace
	Log     *slog.Logger
	Metrics *Metrics
}

// Metrics are the sink's metrics.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	waiting  *prometheus.GaugeVec
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	to := metric.For(reg)
	return &Metrics{
		requests: to.Counters("webhook_requests_total", "Requests to an endpoint by result: ok, refused, failed.", "endpoint", "result"),
		seconds: to.Histograms("webhook_request_seconds", "Time until an endpoint responds.",
			prometheus.ExponentialBuckets(0.005, 2, 12), "endpoint"),
		waiting: to.Gauges("webhook_waiting", "Messages in memory for an endpoint. Parked ones are in parked_messages.", "endpoint"),
	}
}

// Sink implements sink.Sink for HTTP endpoints.
type Sink struct {
	o         Options
	seed      maphash.Seed
	endpoints map[string]*endpoint
	health    *remote.HealthTracker

	ctx     context.Context // ends when Close gives up waiting
	cancel  context.CancelFunc
	closing chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
}

// New starts a sink.
func New(o Options) (*Sink, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	s := &Sink{
		o: o, seed: maphash.MakeSeed(), endpoints: map[string]*endpoint{}, health: remote.NewHealthTracker(o.Log, "webhooks", "messages are kept and sent again"), closing: make(chan struct{}),
	}
	for i := range o.Endpoints {
		if err := complete.Check(o.Endpoints[i]); err != nil {
			return nil, err
		}
		e, err := newEndpoint(s, &o.Endpoints[i])
		if err != nil {
			return nil, err
		}
		s.endpoints[e.o.Name] = e
	}
	s.ctx, s.cancel = context.WithCancel(context.Background()) //nolint:gosec // Close calls it
	for _, e := range s.endpoints {
		e.start()
	}
	return s, nil
}

// Name implements sink.Sink.
func (s *Sink) Name() string { return string(s.Kind()) }

// Kind implements sink.Sink.
func (s *Sink) Kind() op.SinkKind { return kind }

// Announce implements sink.Sink: endpoints come from the configuration.
func (s *Sink) Announce([]string) {}

// Parker implements sink.Sink.
func (s *Sink) Parker() sink.Parker { return s }

// Health implements sink.Sink.
func (s *Sink) Health() remote.Health { return s.health.Get() }

// Deliver implements sink.Sink. Messages for an endpoint that is no longer configured are refused.
func (s *Sink) Deliver(m *sink.Message, t sink.Ticket) {
	e := s.endpoints[m.Out.Topic]
	if e == nil {
		t.Refused(fmt.Errorf("the configuration has no webhook %q", m.Out.Topic))
		return
	}
	e.add(s.newJob(m, t))
}

// Park implements sink.Parker.
func (s *Sink) Park(dest string) {
	if e := s.endpoints[dest]; e != nil {
		e.park()
	}
}

// Open implements sink.Parker. Parked messages for an endpoint that no longer exists are refused when they are sent.
func (s *Sink) Open(dest string, empty func() bool) {
	if e := s.endpoints[dest]; e != nil {
		e.open(empty)
		return
	}
	empty()
}

// note records the state of an endpoint.
func (s *Sink) note(e *endpoint, err error) {
	if err != nil {
		err = fmt.Errorf("%s: %w", e.o.Name, err)
	}
	s.health.Set(e, err)
}

// Close implements sink.Sink.
func (s *Sink) Close(ctx context.Context) error {
	s.once.Do(func() { close(s.closing) })
	err := remote.Finish(ctx, &s.wg, s.cancel)
	for _, e := range s.endpoints {
		e.client.CloseIdleConnections()
	}
	return err
}
