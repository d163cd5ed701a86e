// Package kafkaoptions makes the options of a producer for tests of those that use one.
package kafkaoptions

import (
	"log/slog"
	"time"

	"cellgate/configs"
	"cellgate/rules/sink/kafkaclient"
	"cellgate/test/options"
)

// Producer are a producer's options as the gateway has them, in a hurry.
func Producer(brokers []string) kafkaclient.ProducerOptions {
	k := configs.Default().Kafka
	o := kafkaclient.ProducerOptions{
		Config: kafkaclient.Config{
			Brokers: brokers, ClientID: k.ClientID, RequestTimeout: k.Timeout.Std(), Timing: kafkaclient.NormalTiming(),
		},
		Name: "test", Linger: time.Millisecond, BatchRecords: configs.KafkaBatchRecords,
		Log: slog.New(slog.DiscardHandler), Metrics: kafkaclient.NewMetrics(nil),
	}
	o.MetadataTTL, o.BackoffMin, o.BackoffMax = 100*time.Millisecond, 5*time.Millisecond, 50*time.Millisecond
	options.Fill(&o, k)
	return o
}
