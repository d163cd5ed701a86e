package configs

import "time"

// Bounds and intervals that no key changes. Whoever wires the parts gives them these beside those of the file.
const (
	// MaxTotalQueuedBytes bounds what the queues of all sessions hold; a quarter of it is for commands alone.
	MaxTotalQueuedBytes = 256 * mib
	// SessionCommitInterval is how long a change of a session that nobody waits for may stay out of state.db.
	SessionCommitInterval = time.Second
	// KeyActivation is how long a new signing key is published before it signs, MaxRevocations how many revocations may be
	// in force.
	KeyActivation  = 10 * time.Second
	MaxRevocations = 100_000
	// MaxOpenCommands bounds the open commands of all vehicles, about 500 B of memory each; a sender has half of them.
	MaxOpenCommands = 1_000_000
	// MaxPresenceWaiting bounds the presence events that wait in memory, about 200 B each, MaxPresenceVehicles the vehicles whose
	// presence is in the state file, about 100 B each. PresenceKeep is how long Redis keeps that a vehicle is not connected.
	MaxPresenceWaiting  = 20_000
	MaxPresenceVehicles = 1_000_000
	PresenceKeep        = 30 * 24 * time.Hour
	// CellTTL is for how long Redis tells of a gateway that has said that it lives, CellBeat how often it says so. CellTimeout
	// bounds a call of what the gateways share, beside redis.confirm_timeout, CellPool is how many are under way at least.
	// CellBeginsAfter is how long a gateway without memory waits for others that remember the cell before it begins a new one.
	CellTTL         = 10 * time.Second
	CellBeat        = 3 * time.Second
	CellTimeout     = time.Second
	CellPool        = 32
	CellBeginsAfter = 5 * time.Second
	// ClaimWait is how long a CONNECT, and a SUBACK, wait for Redis. CellSweep is how often all claims are compared with it, CellPause
	// how long the process may have been stopped before they are compared at once, and no command is sent until they are.
	ClaimWait = 50 * time.Millisecond
	CellSweep = 30 * time.Second
	CellPause = 5 * time.Second
	// CellWalk is how often all sessions that Redis has are held against the gateways that live; it is also done when one ends.
	CellWalk = 5 * time.Minute
	// CellOperatorsWait is for how long a vehicle's messages wait for what another gateway's rules remember of it, CellOperatorMoves how many
	// vehicles are waited for at a time. CellOperatorsLeft bounds what a gateway that stops leaves in Redis, CellOperatorsKeep how long
	// it stays there. CellOperatorsSettled is how long another gateway has had a vehicle when this one forgets it unasked.
	CellOperatorsWait    = 200 * time.Millisecond
	CellOperatorMoves    = 64
	CellOperatorsLeft    = 64 * mib
	CellOperatorsKeep    = time.Hour
	CellOperatorsSettled = 10 * time.Second
	// CommandGrace is how long a request waits for several gateways' decision beside redis.confirm_timeout.
	CommandGrace = 250 * time.Millisecond
	// CommandStartGrace is how long after the start no command expires, so that results that the journal has are told first.
	CommandStartGrace = 2 * time.Second
	// JournalSegmentAge is the age at which a segment is closed although it is not full, also without
	// uplink.journal.max_age: a quiet journal gives up what was consumed too.
	JournalSegmentAge = 24 * time.Hour
	// CheckpointInterval is how much of the dispatcher's work is done again after a crash, DecisionSegmentBytes the size of
	// a segment of its logs, SinkLagAlarm how old a pending record is when its sink is reported.
	CheckpointInterval   = time.Second
	DecisionSegmentBytes = 8 * mib
	SinkLagAlarm         = 30 * time.Second
	// TickInterval is how late a rule may be that sends something although no message comes.
	TickInterval = time.Second
	// AgeOutShare: a sink that passes over the oldest may hold back one part in so many of the journal.
	AgeOutShare = 4
	// ParkedShare: the logs of parked destinations together have one part in so many of the journal's bytes, each one part
	// in so many of that. ParkedDestinations is how many may be parked at a time.
	ParkedShare        = 8
	ParkedDestinations = 64
	// MaxVINBytes bounds what the rules' operators remember of one VIN.
	MaxVINBytes = 16 * kib
	// KafkaBatchRecords bounds a batch to Kafka beside kafka.batch_bytes.
	KafkaBatchRecords = 4096
	// MaxTracers is how many may look on what happens to messages at once; each is told at most TraceStepsPerSecond, follows at
	// most TraceMessages messages, and has a buffer of TraceBufferSteps steps and TraceBufferBytes.
	MaxTracers          = 8
	TraceStepsPerSecond = 2000
	TraceMessages       = 1024
	TraceBufferSteps    = 2048
	TraceBufferBytes    = 4 * mib
	// SpanQueue is how many spans wait for the receiver of traces, SpanSteps, SpanBytes, SpanMessages and SpanStepsPerSecond bound what
	// they are made of. SpanPatience is for how long a batch is sent again.
	SpanQueue          = 4096
	SpanSteps          = 16384
	SpanBytes          = 16 * mib
	SpanMessages       = 4096
	SpanStepsPerSecond = 20_000
	SpanPatience       = 20 * time.Second
	// SyncCommitInterval is how much of the outbox topics is sent to the centre again after a crash.
	SyncCommitInterval = time.Second
)
