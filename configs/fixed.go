package configs

import "time"

// Bounds and intervals that cannot be configured. They are passed to the components together with the configuration.
const (
	// MaxTotalQueuedBytes bounds the queues of all sessions together; a quarter of it is reserved for commands.
	MaxTotalQueuedBytes = 256 * mib
	// SessionCommitInterval is the longest delay until a session change that no request waits for is in state.db.
	SessionCommitInterval = time.Second
	// KeyActivation is how long a new signing key is published before it signs. MaxRevocations bounds the active
	// revocations.
	KeyActivation  = 10 * time.Second
	MaxRevocations = 100_000
	// MaxOpenCommands bounds the open commands of all vehicles, about 500 B of memory each. One sender may have half of
	// them.
	MaxOpenCommands = 1_000_000
	// MaxPresenceWaiting bounds the presence events that wait in memory, about 200 B each. MaxPresenceVehicles bounds
	// the vehicles in the presence state file, about 100 B each. PresenceKeep is how long Redis keeps the entry of a
	// disconnected vehicle.
	MaxPresenceWaiting  = 20_000
	MaxPresenceVehicles = 1_000_000
	PresenceKeep        = 30 * 24 * time.Hour
	// CellTTL is how long a gateway's entry in Redis is valid, CellBeat how often the gateway renews it. CellTimeout
	// bounds a call to the shared state, in addition to redis.confirm_timeout. CellPool is the least number of
	// connections for them, CellConcurrent how many of one kind a gateway makes at a time by itself. CellBeginsAfter is how long a gateway without memory of the cell waits for others that remember
	// it before it creates a new one.
	CellTTL         = 10 * time.Second
	CellBeat        = 3 * time.Second
	CellTimeout     = time.Second
	CellPool        = 64
	CellConcurrent  = 16
	CellBeginsAfter = 5 * time.Second
	// ClaimWait is how long a CONNECT or a SUBACK waits for Redis. CellSweep is how often all claims are compared with
	// Redis. After the process was stopped for longer than CellPause they are compared at once, and no command is sent
	// before that.
	ClaimWait = 50 * time.Millisecond
	CellSweep = 30 * time.Second
	CellPause = 5 * time.Second
	// CellWalk is how often the sessions in Redis are checked against the live gateways. They are also checked when a
	// gateway ends.
	CellWalk = 5 * time.Minute
	// CellOperatorsWait is how long a vehicle's messages wait for its operator state from a gateway that does not receive
	// the question, CellOperatorMoves the most vehicles that wait for a state at a time. CellOperatorsLeft bounds the state that a stopping
	// gateway leaves in Redis, CellOperatorsKeep how long it stays there. CellOperatorsForgetAfter is how long another
	// gateway must have had a vehicle before this one forgets its state without a request.
	CellOperatorsWait        = 200 * time.Millisecond
	CellOperatorMoves        = 256
	CellOperatorsLeft        = 64 * mib
	CellOperatorsKeep        = time.Hour
	CellOperatorsForgetAfter = 10 * time.Second
	// CommandGrace is how long a request waits for a decision of several gateways, in addition to
	// redis.confirm_timeout.
	CommandGrace = 250 * time.Millisecond
	// CommandStartGrace is how long after startup no command expires, so that results in the journal are processed
	// first.
	CommandStartGrace = 2 * time.Second
	// JournalSegmentAge is the age at which a segment that is not full is closed, with or without
	// uplink.journal.max_age, so that a quiet journal also deletes consumed records.
	JournalSegmentAge = 24 * time.Hour
	// CheckpointInterval bounds the dispatcher's work that is repeated after a crash. DecisionSegmentBytes is the
	// segment size of its logs. SinkLagAlarm is the age of a pending record at which its sink is reported.
	CheckpointInterval   = time.Second
	DecisionSegmentBytes = 8 * mib
	SinkLagAlarm         = 30 * time.Second
	// TickInterval is the most by which a rule that fires without a message may be late.
	TickInterval = time.Second
	// AgeOutShare bounds a sink with age_out: its backlog may hold 1/AgeOutShare of the journal.
	AgeOutShare = 4
	// ParkedShare bounds the logs of parked destinations: together 1/ParkedShare of the journal's bytes, each
	// 1/ParkedShare of that. ParkedDestinations is the most destinations that are parked at a time.
	ParkedShare        = 8
	ParkedDestinations = 64
	// MaxVINBytes bounds the operator state of one VIN.
	MaxVINBytes = 16 * kib
	// KafkaBatchRecords bounds a batch to Kafka, in addition to kafka.batch_bytes.
	KafkaBatchRecords = 4096
	// MaxTracers is the most live traces at a time. Each gets at most TraceStepsPerSecond, follows at most
	// TraceMessages messages, and has a buffer of TraceBufferSteps steps and TraceBufferBytes.
	MaxTracers          = 8
	TraceStepsPerSecond = 2000
	TraceMessages       = 1024
	TraceBufferSteps    = 2048
	TraceBufferBytes    = 4 * mib
	// SpanQueue bounds the spans that wait for the trace receiver. SpanSteps, SpanBytes, SpanMessages and
	// SpanStepsPerSecond bound the input that spans are built from. SpanPatience is how long a batch is retried.
	SpanQueue          = 4096
	SpanSteps          = 16384
	SpanBytes          = 16 * mib
	SpanMessages       = 4096
	SpanStepsPerSecond = 20_000
	SpanPatience       = 20 * time.Second
	// SyncCommitInterval bounds the part of the outbox topics that is sent to the centre again after a crash.
	SyncCommitInterval = time.Second
)
