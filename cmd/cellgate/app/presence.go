package app

import (
	"encoding/json"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/session"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/metric"
)

// topicPresence carries connects and disconnects of vehicles, ordered per VIN.
const topicPresence = "vehicle.presence"

// maxPresence bounds the events that wait for Kafka: about 300 bytes each. Beyond it they are dropped and
// counted: presence is a hint, and the API tells the truth.
const maxPresence = 20_000

// presence publishes presence events. It never blocks who reports them.
type presence struct {
	cell, node string
	epoch      int64 // together with seq it orders a VIN's events over restarts
	seq        atomic.Uint64
	waiting    atomic.Int64
	producer   *kafkaclient.Producer
	published  *prometheus.CounterVec
	log        *slog.Logger
}

func newPresence(cell, node string, epoch int64, producer *kafkaclient.Producer, reg prometheus.Registerer, log *slog.Logger) *presence {
	p := &presence{cell: cell, node: node, epoch: epoch, producer: producer, log: log}
	p.published = metric.For(reg).Counters("presence_events_total",
		"Presence events by result: published, dropped (too many wait for Kafka), failed.", "result")
	return p
}

// presenceEvent is the value on vehicle.presence.
type presenceEvent struct {
	VIN    string `json:"vin"`
	Cell   string `json:"cell"`
	Epoch  int64  `json:"epoch"` // rises with every start of the gateway
	Seq    uint64 `json:"seq"`   // rises with every event of one epoch
	Event  string `json:"event"` // connected, disconnected
	At     string `json:"at"`
	Reason string `json:"reason,omitempty"`
}

// on is called by the session manager, in order per client.
func (p *presence) on(e session.Presence) {
	if !e.Vehicle {
		return
	}
	if p.waiting.Load() >= maxPresence {
		p.published.WithLabelValues("dropped").Inc()
		return
	}
	name := "disconnected"
	if e.Connected {
		name = "connected"
	}
	at := e.At.UTC().Format("2006-01-02T15:04:05.000Z07:00")
	value, err := json.Marshal(presenceEvent{e.Key, p.cell, p.epoch, p.seq.Add(1), name, at, e.Reason})
	if err != nil {
		p.log.Error("presence event", slog.Any("error", err))
		return
	}
	headers := kafkaclient.AppendHeader(nil, "cell", p.cell)
	headers = kafkaclient.AppendHeader(headers, "vin", e.Key)
	p.waiting.Add(1)
	p.producer.Produce(&kafkaclient.Record{
		Topic: topicPresence, Key: []byte(e.Key), Value: value, Headers: headers, HeaderCount: 2, Time: e.At.UnixMilli(),
		Done: kafkaclient.CompletionFunc(p.done),
	})
}

func (p *presence) done(_ *kafkaclient.Record, err error) {
	p.waiting.Add(-1)
	result := "published"
	if err != nil {
		result = "failed"
	}
	p.published.WithLabelValues(result).Inc()
}
