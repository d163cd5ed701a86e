package spans

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	otel "go.opentelemetry.io/otel/trace"

	"cellgate/broker/shared/complete"
	"cellgate/broker/shared/metric"
	"cellgate/broker/shared/trace"
)

// Options configure an Exporter.
type Options struct {
	// Endpoint is the receiver's URL. Headers are sent with each request.
	Endpoint string
	Headers  map[string]string
	TLS      *tls.Config `zero:"as the system has it"`
	// Cell, Node and Version identify the source of the spans. Epoch is the journal's.
	Cell, Node string
	Version    string `zero:"unknown"`
	Epoch      uint64
	// Sampling selects the messages and commands that are traced.
	Sampling *trace.Sampling
	// Queue bounds the spans that wait for the receiver. Messages bounds the messages followed at a time. Patience is
	// how long a batch is retried.
	Queue, Messages int
	Patience        time.Duration
	Log             *slog.Logger
	Metrics         prometheus.Registerer
}

// A batch is sent when it is full, or when its first span has waited this long.
const (
	batchSpans = 512
	batchWait  = time.Second
	oneRequest = 10 * time.Second
)

// Exporter makes spans and sends them. A nil Exporter makes none.
type Exporter struct {
	o       Options
	tracer  otel.Tracer
	queue   chan sdk.ReadOnlySpan
	client  sdk.SpanExporter
	outcome *prometheus.CounterVec
	waiting prometheus.Gauge
	failing bool // used only by the sender

	stop    context.CancelFunc // ends the requests
	ctx     context.Context
	workers sync.WaitGroup
	looking *trace.Tracer
	quit    context.CancelFunc // ends look
}

// Outcomes of spans.
const (
	exported    = "exported"
	queueFull   = "queue_full" // the receiver is too slow
	notAccepted = "not_taken"  // the receiver did not accept a batch
	leftOut     = "rate"       // steps beyond the rate, without spans
)

// New makes an exporter that follows the tracer from until Close.
func New(o Options, from *trace.Tracer) (*Exporter, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	client, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(o.Endpoint), otlptracehttp.WithHeaders(o.Headers),
		otlptracehttp.WithTLSClientConfig(o.TLS), otlptracehttp.WithTimeout(oneRequest), otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: o.Patience}))
	if err != nil {
		return nil, err
	}
	m := metric.For(o.Metrics)
	e := &Exporter{
		o: o, queue: make(chan sdk.ReadOnlySpan, o.Queue), client: client, looking: from,
		outcome: m.Counters("spans_total", "Trace spans by outcome.", "outcome"),
		waiting: m.Gauge("spans_waiting", "Trace spans that wait for the receiver."),
	}
	m.Gauge("spans_waiting_limit", "Bound of spans_waiting.").Set(float64(o.Queue))
	provider := sdk.NewTracerProvider(sdk.WithIDGenerator(given{}), sdk.WithSpanProcessor(enqueue{e}), sdk.WithSampler(sdk.AlwaysSample()),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "cellgate"), attribute.String("service.version", o.Version),
			attribute.String("service.instance.id", o.Node), attribute.String("cellgate.cell", o.Cell))))
	e.tracer = provider.Tracer("cellgate")
	e.ctx, e.stop = context.WithCancel(context.Background())
	look, quit := context.WithCancel(context.Background())
	e.quit = quit
	e.workers.Go(e.send)
	e.workers.Go(func() { e.look(look) })
	return e, nil
}

// Close sends the waiting spans, until ctx ends.
func (e *Exporter) Close(ctx context.Context) error {
	e.looking.End()
	e.quit()
	done := make(chan struct{})
	go func() {
		e.workers.Wait()
		close(done)
	}()
	defer e.stop()
	select {
	case <-done:
	case <-ctx.Done():
		e.stop()
		<-done
	}
	return e.client.Shutdown(ctx)
}

// look makes spans of the steps of messages.
func (e *Exporter) look(ctx context.Context) {
	defer close(e.queue)
	a := assembler{e: e, open: map[uint64]*message{}}
	for {
		steps := e.looking.Next(ctx)
		if steps == nil {
			return
		}
		for i := range steps {
			if steps[i].Step == trace.Dropped {
				e.outcome.WithLabelValues(leftOut).Add(float64(steps[i].Count))
			} else {
				a.step(&steps[i])
			}
		}
	}
}

// span is a span that has ended.
type span struct {
	at         trace.Context // its own place
	parent     [8]byte       // zero: it begins the trace
	name       string
	kind       otel.SpanKind
	begin, end time.Time
	failed     string // why, "" when it did not
	attributes []attribute.KeyValue
}

func (e *Exporter) emit(s *span) {
	ctx := context.WithValue(context.Background(), given{}, s.at)
	if s.parent != [8]byte{} {
		ctx = otel.ContextWithRemoteSpanContext(ctx, otel.NewSpanContext(otel.SpanContextConfig{
			TraceID: s.at.Trace, SpanID: s.parent, TraceFlags: otel.FlagsSampled, Remote: true,
		}))
	}
	if s.end.Before(s.begin) {
		s.end = s.begin
	}
	_, made := e.tracer.Start(ctx, s.name, otel.WithTimestamp(s.begin), otel.WithSpanKind(s.kind), otel.WithAttributes(s.attributes...))
	if s.failed != "" {
		made.SetStatus(codes.Error, s.failed)
	}
	made.End(otel.WithTimestamp(s.end))
}

// given generates the IDs that a span already has.
type given struct{}

// NewIDs implements sdk.IDGenerator.
func (g given) NewIDs(ctx context.Context) (otel.TraceID, otel.SpanID) {
	c, _ := ctx.Value(g).(trace.Context)
	return c.Trace, c.Span
}

// NewSpanID implements sdk.IDGenerator.
func (g given) NewSpanID(ctx context.Context, _ otel.TraceID) otel.SpanID {
	_, id := g.NewIDs(ctx)
	return id
}

// enqueue queues ended spans.
type enqueue struct{ e *Exporter }

// OnStart implements sdk.SpanProcessor.
func (enqueue) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd implements sdk.SpanProcessor. It does not block.
func (q enqueue) OnEnd(s sdk.ReadOnlySpan) { q.e.put(s) }

// Shutdown implements sdk.SpanProcessor.
func (enqueue) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdk.SpanProcessor.
func (enqueue) ForceFlush(context.Context) error { return nil }
