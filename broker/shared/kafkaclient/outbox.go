package kafkaclient

// The topics of the cell's Kafka that carry what is bound for the central unit, one a priority lane. The
// sink for central targets writes them, the sync worker reads them.
const (
	OutboxP0 = "central.p0"
	OutboxP1 = "central.p1"
	OutboxP2 = "central.p2"
)

// OutboxTopics are all outbox topics, by priority.
func OutboxTopics() []string { return []string{OutboxP0, OutboxP1, OutboxP2} }

// HeaderCentralTopic names, on a record in an outbox topic, the central topic it is bound for.
const HeaderCentralTopic = "central-topic"
