package kafkaclient

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what the producers and consumers of the process do, by their names.
type Metrics struct {
	Batches *prometheus.CounterVec // kafka_batches_total{kafka}
	Records *prometheus.CounterVec // kafka_records_total{kafka,outcome}
	Bytes   *prometheus.CounterVec // kafka_bytes_total{kafka}, compressed
	Retries *prometheus.CounterVec // kafka_retries_total{kafka,reason}
	Skipped *prometheus.CounterVec // kafka_skipped_records_total{kafka}: gone before they were read
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		Batches: vec("kafka_batches_total", "Record batches that Kafka took.", "kafka"),
		Records: vec("kafka_records_total", "Records by outcome: written or refused.", "kafka", "outcome"),
		Bytes:   vec("kafka_bytes_total", "Bytes of the batches that Kafka took, compressed.", "kafka"),
		Retries: vec("kafka_retries_total", "Produce requests that were sent again, by reason.", "kafka", "reason"),
		Skipped: vec("kafka_skipped_records_total", "Records that retention removed before they were read.", "kafka"),
	}
	if reg != nil {
		reg.MustRegister(m.Batches, m.Records, m.Bytes, m.Retries, m.Skipped)
	}
	return m
}
