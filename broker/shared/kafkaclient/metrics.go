package kafkaclient

import (
	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/metric"
)

// Metrics are the metrics of the process's producers and consumers, by name.
type Metrics struct {
	Batches *prometheus.CounterVec // kafka_batches_total{kafka}
	Records *prometheus.CounterVec // kafka_records_total{kafka,outcome}
	Bytes   *prometheus.CounterVec // kafka_bytes_total{kafka}, compressed
	Retries *prometheus.CounterVec // kafka_retries_total{kafka,reason}
	Skipped *prometheus.CounterVec // kafka_skipped_records_total{kafka}: removed before they were read
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	to := metric.For(reg)
	return &Metrics{
		Batches: to.Counters("kafka_batches_total", "Record batches written to Kafka.", "kafka"),
		Records: to.Counters("kafka_records_total", "Records by outcome: written or refused.", "kafka", "outcome"),
		Bytes:   to.Counters("kafka_bytes_total", "Compressed bytes of the batches written to Kafka.", "kafka"),
		Retries: to.Counters("kafka_retries_total", "Repeated produce requests by reason.", "kafka", "reason"),
		Skipped: to.Counters("kafka_skipped_records_total", "Records that retention deleted before they were read.", "kafka"),
	}
}
