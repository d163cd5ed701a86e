package broker

import (
	"cellgate/broker/shared/metric"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics holds the broker's metrics. The registerer adds the prefix and the cell.
type Metrics struct {
	connections   prometheus.Gauge
	handshakes    prometheus.Gauge
	connects      *prometheus.CounterVec
	received      *prometheus.CounterVec
	receivedBytes prometheus.Counter
	pubackSeconds prometheus.Histogram
	Rejected      *prometheus.CounterVec
	repeated      prometheus.Counter
	panics        prometheus.Counter
	acceptErrors  prometheus.Counter
	disconnects   *prometheus.CounterVec
	windowsFull   prometheus.Gauge
}

// NewMetrics registers the broker's metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	to := metric.For(reg)
	return &Metrics{
		connections:   to.Gauge("connections", "Connected MQTT clients."),
		handshakes:    to.Gauge("handshakes", "Connections that have not finished TLS and CONNECT."),
		connects:      to.Counters("connects_total", "Finished CONNECTs by result.", "result"),
		received:      to.Counters("messages_received_total", "PUBLISH packets accepted from clients.", "class", "qos"),
		receivedBytes: to.Counter("received_bytes_total", "Bytes of MQTT read from clients."),
		pubackSeconds: to.Histogram("puback_seconds", "Time from reading a PUBLISH to writing its PUBACK or PUBREC, sampled per connection.",
			.0005, .001, .002, .004, .006, .008, .012, .016, .025, .05, .1, .25, .5, 1, 2.5, 10, 60),
		Rejected:     to.Counters("rejected_total", "Refused connections, messages and requests by reason.", "reason"),
		repeated:     to.Counter("messages_repeated_total", "QoS 1 PUBLISH packets that repeat one in the journal."),
		panics:       to.Counter("connection_panics_total", "Panics that ended one connection."),
		acceptErrors: to.Counter("accept_errors_total", "Failed accepts, for example when descriptors run out."),
		disconnects:  to.Counters("disconnects_total", "Ended connections by reason.", "reason"),
		windowsFull: to.Gauge("uplink_windows_full",
			"MQTT 3.1.1 clients that are not read because they have uplink.window unacknowledged messages."),
	}
}

// otherClass is the label for topic classes that the configuration does not name.
const otherClass = "other"

// counters holds the PUBLISH counters, looked up once: a label lookup per message costs more than the scan of the
// message.
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
			byQoS[qos] = m.received.WithLabelValues(name, label)
		}
		c.received = append(c.received, byQoS)
	}
	return c
}

// classOf returns the index of a topic class; 0 is otherClass.
func (c *counters) classOf(class string) int { return c.class[class] }
