package session

import (
	"cellgate/broker/shared/metric"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons why a message was not delivered: label reason of session_dropped_total.
const (
	dropQueueMessages = "queue_messages" // Options.MaxQueuedMessages
	dropQueueBytes    = "queue_bytes"    // Options.MaxQueuedBytes
	dropTotalBytes    = "total_bytes"    // Options.MaxTotalBytes
	dropOwnerBytes    = "subject_bytes"  // Options.MaxQueuedBytesPerSubject
	dropStateFull     = "state_full"     // Options.DiskShort
	dropOldest        = "queue_oldest"   // dropped for a newer one
	dropExpired       = "expired"
	dropNotPermitted  = "not_permitted"
	dropTooLarge      = "packet_too_large"
	dropOffline       = "offline"       // QoS 0, client not connected
	dropNoRoom        = "outbound_full" // QoS 0, connection slow
	dropSessionEnded  = "session_ended"
	dropRetained      = "retained_full" // Options.MaxRetainedMessages or MaxRetainedBytes
)

// Reasons why a request was refused: label reason of rejected_total.
const (
	rejectSessions      = "subject_sessions"      // Options.MaxPerSubject
	rejectSubscriptions = "subject_subscriptions" // Options.MaxSubscriptionsPerSubject
	rejectLevels        = "topic_levels"          // Options.MaxTopicLevels
	rejectRetained      = "retained_full"         // Options.MaxRetainedMessages or MaxRetainedBytes
	rejectRetainedShare = "retained_share"        // Options.MaxRetainedPerSubject, or 1/64 of MaxRetainedBytes
)

// Metrics count what the sessions do.
type Metrics struct {
	sessions, connected     prometheus.Gauge
	queued, queuedBytes     prometheus.Gauge
	retained, retainedBytes prometheus.Gauge
	fanned, directed, acked prometheus.Counter
	takeovers, expired      prometheus.Counter
	dropped, wills          *prometheus.CounterVec
	commits                 prometheus.Histogram
	commitErrors            prometheus.Counter
}

// NewMetrics makes the metrics and registers them with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	to := metric.For(reg)
	return &Metrics{
		sessions:      to.Gauge("sessions", "Sessions, connected or not."),
		connected:     to.Gauge("sessions_connected", "Sessions of connected clients."),
		queued:        to.Gauge("session_queued_messages", "Messages to clients that wait or are not acknowledged."),
		queuedBytes:   to.Gauge("session_queued_bytes", "Memory of the messages in session_queued_messages."),
		retained:      to.Gauge("retained_messages", "Retained messages, including those still on the way from the journal."),
		retainedBytes: to.Gauge("retained_bytes", "Memory of retained messages."),
		fanned:        to.Counter("session_fanned_total", "Copies of messages queued for subscribers."),
		directed:      to.Counter("session_directed_total", "Messages to one client: commands and notices."),
		acked:         to.Counter("session_acked_total", "QoS 1 and 2 messages that clients have acknowledged."),
		takeovers:     to.Counter("session_takeovers_total", "Connections ended by a newer connection of the same client."),
		expired:       to.Counter("sessions_expired_total", "Expired sessions."),
		dropped:       to.Counters("session_dropped_total", "Dropped messages to clients by reason.", "reason"),
		wills:         to.Counters("wills_total", "Due wills by result.", "result"),
		commitErrors:  to.Counter("session_commit_errors_total", "Failed commits of session state; each is retried."),
		commits: to.Histogram("session_commit_seconds", "Duration of commits of session state.",
			prometheus.ExponentialBuckets(0.0005, 2, 14)...),
	}
}
