package app

import (
	"cellgate/broker/shared/metric"
	"cellgate/configs"
)

// limitReadings returns the bounds. Their use is measured under the same names without _limit.
func (a *gateway) limitReadings() *metric.Readings {
	r := &metric.Readings{}
	connections := r.Add("connections_limit", "The most clients at once: limits.max_connections, or what descriptors admit.")
	handshakes := r.Add("handshakes_limit", "The most connections that have not finished TLS and CONNECT, limits.handshakes.")
	retained := r.Add("retained_messages_limit", "The bound of retained_messages, sessions.max_retained_messages.")
	retainedBytes := r.Add("retained_bytes_limit", "The bound of retained_bytes, sessions.max_retained_bytes.")
	queued := r.Add("session_queued_bytes_limit", "The bound of session_queued_bytes.")
	commands := r.Add("commands_open_limit", "The bound of commands_open.")
	journal := r.Add("journal_bytes_limit", "The bound of journal_bytes, by uplink.journal.max_bytes and by the disk.")
	r.Read = func(to metric.Sample) {
		c := a.Config()
		to.Gauge(connections, float64(limitsOf(c, a.descriptors.clients).MaxConnections))
		to.Gauge(handshakes, float64(c.Limits.Handshakes))
		to.Gauge(retained, float64(c.Sessions.MaxRetainedMessages))
		to.Gauge(retainedBytes, float64(c.Sessions.MaxRetainedBytes))
		to.Gauge(queued, configs.MaxTotalQueuedBytes)
		to.Gauge(commands, configs.MaxOpenCommands)
		to.Gauge(journal, float64(a.journal.Stat().MaxBytes))
	}
	return r
}
