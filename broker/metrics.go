package broker

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the broker. The registerer adds the prefix and the cell.
type Metrics struct {
	Connections   prometheus.Gauge
	Handshakes    prometheus.Gauge
	Connects      *prometheus.CounterVec
	Received      *prometheus.CounterVec
	ReceivedBytes prometheus.Counter
	PubackSeconds prometheus.Histogram
	Rejected      *prometheus.CounterVec
	Repeated      prometheus.Counter
	Panics        prometheus.Counter
	AcceptErrors  prometheus.Counter
	CertNotAfter  *prometheus.GaugeVec
	Disconnects   *prometheus.CounterVec
}

// NewMetrics registers the broker's metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "connections", Help: "MQTT clients connected.",
		}),
		Handshakes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "handshakes", Help: "Connections that have not finished TLS and CONNECT.",
		}),
		Connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "connects_total", Help: "Finished CONNECTs by result.",
		}, []string{"result"}),
		Received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "messages_received_total", Help: "PUBLISHes accepted from clients.",
		}, []string{"class", "qos"}),
		ReceivedBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "received_bytes_total", Help: "Bytes of MQTT read from clients.",
		}),
		PubackSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "puback_seconds", Help: "From reading a PUBLISH to writing its PUBACK or PUBREC, sampled per connection.",
			Buckets: []float64{.0005, .001, .002, .004, .006, .008, .012, .016, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}),
		Rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rejected_total", Help: "Refusals of connections, messages and requests by reason.",
		}, []string{"reason"}),
		Repeated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "messages_repeated_total", Help: "QoS 1 PUBLISHes recognised as repetitions of one in the journal.",
		}),
		Panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "connection_panics_total", Help: "Panics that ended one connection.",
		}),
		AcceptErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "accept_errors_total", Help: "Failed accepts, as when descriptors run out.",
		}),
		CertNotAfter: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tls_certificate_not_after_seconds", Help: "End of the server certificate, Unix time.",
		}, []string{"listener"}),
		Disconnects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "disconnects_total", Help: "Ended connections by reason.",
		}, []string{"reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.Connections, m.Handshakes, m.Connects, m.Received, m.ReceivedBytes, m.PubackSeconds,
			m.Rejected, m.Repeated, m.Panics, m.AcceptErrors, m.CertNotAfter, m.Disconnects)
	}
	return m
}

// otherClass is the label of every topic class that the configuration does not name.
const otherClass = "other"

// counters are the PUBLISH counters, looked up once: a label lookup per message would cost more than the
// scan of the message.
type counters struct {
	class    map[string]int
	received [][3]prometheus.Counter
}

func newCounters(m *Metrics, classes []string) *counters {
	c := &counters{class: make(map[string]int)}
	for _, name := range append([]string{otherClass}, classes...) {
		if _, known := c.class[name]; known {
			continue
		}
		c.class[name] = len(c.received)
		var byQoS [3]prometheus.Counter
		for qos, label := range []string{"0", "1", "2"} {
			byQoS[qos] = m.Received.WithLabelValues(name, label)
		}
		c.received = append(c.received, byQoS)
	}
	return c
}

// classOf gives the index of a topic class; 0 is otherClass.
func (c *counters) classOf(class string) int { return c.class[class] }
