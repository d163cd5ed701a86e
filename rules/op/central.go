package op

import (
	"cellgate/rules/doc"
)

// SinkCentral is the Kafka of the central unit, reached through the cell's outbox topics.
const SinkCentral SinkKind = "central"

const writeLane = "write p0 (alarms), p1 (normal) or p2 (bulk)"

// Central describes the target central.
var Central = Target{
	Kind: SinkCentral,
	Keys: append([]Key{
		{Name: "lane", Value: oneOfValue("a lane", doc.CodeBadLane, writeLane, "p0", "p1", "p2"), Need: "write lane: p0 (alarms), p1 (normal) or p2 (bulk)"},
		TopicKey,
	}, recordKeys()...),
	New:    func(a *Args) Sender { return newKafka(a, a.Text("lane")) },
	View:   kafkaView,
	Expect: []string{"lane", "topic", "key", "value", "headers"},
	Reference: "`central: {lane: p0, topic: fleet.alerts}`: to the Kafka of the central unit. `p0` goes first (alarms), then " +
		"`p1`, then `p2` (bulk). `key`, `headers: none` and `payload: none` as for `kafka`.",
}
