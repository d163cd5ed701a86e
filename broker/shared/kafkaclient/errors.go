package kafkaclient

import (
	"errors"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// Errors that Record.Done is given.
var (
	// ErrRefused says that Kafka will never take this record, whoever sends it again.
	ErrRefused = errors.New("refused by kafka")
	// ErrClosed says that the producer ended before the outcome was known: the record may or may not
	// have been written.
	ErrClosed = errors.New("kafka producer closed")
	// ErrAbandoned says that the record's Parker wanted no further try.
	ErrAbandoned = errors.New("abandoned")
	// ErrMissingTopic says why a record was refused: the cluster is there, the topic has not been for
	// longer than the grace.
	ErrMissingTopic = errors.New("topic does not exist")
)

// Why a destination is parked, and what a lane tells its topic.
var (
	errParkedBefore = errors.New("parked before the restart")
	errResized      = errors.New("the number of partitions changes")
	errLeft         = errors.New("the partition is gone")
	errStuck        = errors.New("the partition takes no records")
)

// answered reports that a broker has answered, so that the fault is not that of the way to it.
func answered(err error) bool {
	var code kafka.Error
	return errors.As(err, &code) || judge(err) == missing
}

// verdict says what to do about the outcome of one produce request.
type verdict int

const (
	taken       verdict = iota // written, now or by an earlier try
	again                      // send the same bytes again
	refuse                     // some record of the batch is unacceptable: halve, or give the one up
	newIdentity                // the broker and the producer disagree about sequences: start a new id
	corrupt                    // damaged on the way, or never acceptable: again a few times, then refuse
	missing                    // the topic or partition is not known
)

// judge maps errors to verdicts. What is not named waits and is tried again, because a rejected login,
// a full disk or an unknown code is no fault of the record.
func judge(err error) verdict {
	switch {
	case err == nil:
		return taken
	case errors.Is(err, protocol.ErrNoTopic), errors.Is(err, protocol.ErrNoPartition):
		return missing
	}
	var code kafka.Error
	if !errors.As(err, &code) {
		return again
	}
	switch code {
	case kafka.DuplicateSequenceNumber:
		return taken
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge, kafka.InvalidRecord, kafka.InvalidTimestamp,
		kafka.InvalidTopic, kafka.PolicyViolation:
		return refuse
	case kafka.InvalidMessage, kafka.InvalidMessageSize:
		return corrupt
	case kafka.OutOfOrderSequenceNumber, kafka.UnknownProducerId, kafka.InvalidProducerEpoch,
		kafka.InvalidProducerIDMapping, kafka.ProducerFenced:
		return newIdentity
	case kafka.UnknownTopicOrPartition:
		return missing
	}
	return again
}
