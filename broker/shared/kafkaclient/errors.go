package kafkaclient

import (
	"errors"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// Errors of Completion.Produced.
var (
	// ErrRefused means that Kafka will never take this record.
	ErrRefused = errors.New("refused by kafka")
	// errClosed means that the producer closed before the outcome was known: the record may or may not have been
	// written.
	errClosed = errors.New("kafka producer closed")
	// ErrAbandoned means that the record's Parker no longer needed it.
	ErrAbandoned = errors.New("abandoned")
	// ErrMissingTopic means that a reachable cluster has not had the topic for longer than the grace.
	ErrMissingTopic = errors.New("topic does not exist")
)

// Reasons for parking a destination, and a writer's reports to its topic.
var (
	errParkedBefore = errors.New("parked before the restart")
	errResized      = errors.New("the number of partitions changes")
	errLeft         = errors.New("the partition is gone")
	errStuck        = errors.New("the partition accepts no records")
)

// answered reports whether a broker answered, so that the fault is not in the connection.
func answered(err error) bool {
	var code kafka.Error
	return errors.As(err, &code) || judge(err) == missing
}

// verdict is how to handle the outcome of a produce request.
type verdict int

const (
	taken       verdict = iota // written, now or by an earlier try
	again                      // send the same bytes again
	refuse                     // the batch has an unacceptable record: halve it, or give up the only one
	newIdentity                // broker and producer disagree about sequences: start a new id
	corrupt                    // damaged in transit, or never acceptable: resend a few times, then refuse
	missing                    // the topic or partition is not known
)

// judge maps errors to verdicts. Other errors are retried after a pause: a rejected login, a full disk or an unknown
// code is no fault of the record.
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
