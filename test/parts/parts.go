// Package parts makes the options of parts that others are tested with.
package parts

import (
	"log/slog"
	"time"

	"cellgate/broker/clock"
	"cellgate/broker/journal"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/configs"
	"cellgate/test/options"
)

// Journal are a journal's options as the gateway has them, but that it leaves no room to others.
func Journal(dir string) journal.Options {
	c := configs.Default().Uplink.Journal
	c.ReserveBytes = 0
	o := journal.Options{
		Dir: dir, Machine: journal.ThisMachine(clock.System()), OnStep: func(clock.Step) {}, OnFatal: func(error) {},
		Log: slog.New(slog.DiscardHandler), Metrics: journal.NewMetrics(nil),
	}
	options.Fill(&o, c)
	return o
}

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
