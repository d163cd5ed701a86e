package kafkaclient

// The outbox topics of the cell's Kafka, one per priority lane. The sink for central targets writes them, the sync
// worker reads them.
const (
	OutboxP0 = "central.p0"
	OutboxP1 = "central.p1"
	OutboxP2 = "central.p2"
)

// OutboxTopics returns all outbox topics by priority.
func OutboxTopics() []string { return []string{OutboxP0, OutboxP1, OutboxP2} }

// HeaderCentralTopic is the header of an outbox record that names its topic in the central Kafka.
const HeaderCentralTopic = "central-topic"
