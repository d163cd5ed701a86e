package app

import (
	"cellgate/broker/shared/metric"
	"cellgate/configs"
)

// limitReadings returns the bounds. Their use is measured under the same names without _limit.
func (a *gateway) limitReadings() *metric.Readings {
	r := &metric.Readings{}
	connections := r.Add("connections_limit", "Bound of connections: limits.max_connections, or fewer if there are too few descriptors.")
	handshakes := r.Add("handshakes_limit", "Bound of handshakes: limits.handshakes.")
	retained := r.Add("retained_messages_limit", "Bound of retained_messages: sessions.max_retained_messages.")
	retainedBytes := r.Add("retained_bytes_limit", "Bound of retained_bytes: sessions.max_retained_bytes.")
	queued := r.Add("session_queued_bytes_limit", "Bound of session_queued_bytes.")
	commands := r.Add("commands_open_limit", "Bound of commands_open.")
	kept := r.Add("commands_kept_limit", "Bound of commands_kept: commands.keep_max.")
	events := r.Add("command_events_waiting_limit", "Bound of command_events_waiting: commands.max_events.")
	revocations := r.Add("revocations_limit", "Bound of revocations.")
	window := r.Add("uplink_window_limit",
		"Bound of unacknowledged messages per client: uplink.window. uplink_windows_full counts the clients at the bound.")
	subject := r.Add("session_subject_used_ratio",
		"Highest share that any token subject uses of a bound per subject (sessions.max_…_per_subject).", "what")
	journal := r.Add("journal_bytes_limit", "Bound of journal_bytes: uplink.journal.max_bytes, or less if the disk has less.")
	r.Read = func(to metric.Sample) {
		c := a.Config()
		to.Gauge(connections, float64(limitsOf(c, a.descriptors.clients).MaxConnections))
		to.Gauge(handshakes, float64(c.Limits.Handshakes))
		to.Gauge(retained, float64(c.Sessions.MaxRetainedMessages))
		to.Gauge(retainedBytes, float64(c.Sessions.MaxRetainedBytes))
		to.Gauge(queued, configs.MaxTotalQueuedBytes)
		to.Gauge(commands, configs.MaxOpenCommands)
		to.Gauge(kept, float64(c.Commands.KeepMax))
		to.Gauge(events, float64(c.Commands.MaxEvents))
		to.Gauge(revocations, configs.MaxRevocations)
		to.Gauge(window, float64(c.Uplink.Window))
		for what, used := range a.sessions.SubjectUse() {
			to.Gauge(subject, used, what)
		}
		to.Gauge(journal, float64(a.journal.Stat().MaxBytes))
	}
	return r
}
