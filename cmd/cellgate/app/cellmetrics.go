package app

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/cell"
	"cellgate/broker/shared/metric"
)

// cellMetrics are of what several gateways share.
type cellMetrics struct {
	claims    *prometheus.CounterVec // by result
	seconds   prometheus.Observer
	unclaimed prometheus.Counter
	taken     prometheus.Counter
	notices   *prometheus.CounterVec // by direction and kind
	came      *prometheus.CounterVec // operators' state, by result
	gone      *prometheus.CounterVec
	bytes     *prometheus.CounterVec // by direction
}

// Kinds of notices.
var noticeKinds = []string{cell.NoticeTaken, noticeMembers, "ask", "answer"}

// What has become of operators' state.
const (
	stateAsked     = "asked"     // by the gateway before, in time
	stateLeft      = "left"      // by one that has stopped
	stateLate      = "late"      // when the vehicle was connected
	stateNone      = "none"      // there was none
	stateLost      = "lost"      // nobody has answered
	stateBusy      = "busy"      // too many vehicles came at a time
	stateGiven     = "given"     // to who has asked
	stateRefused   = "refused"   // the vehicle is here, or the rules lag
	stateUnleft    = "unleft"    // of a gateway that stops: a bound, or Redis
	stateForgotten = "forgotten" // unasked: another gateway has the vehicle
)

func newCellMetrics(reg prometheus.Registerer) *cellMetrics {
	to := metric.For(reg)
	m := &cellMetrics{
		claims: to.Counters("cell_claims_total", "Claims of vehicles by result: made, again (Redis had lost it, or the vehicle was taken for gone), "+
			"refused (a younger connection has the vehicle), missed (so has one of which no notice has told), unanswered.", "result"),
		seconds:   to.Histogram("cell_claim_seconds", "Time of a claim that was answered.", prometheus.ExponentialBuckets(0.0005, 2, 12)...),
		unclaimed: to.Counter("cell_connects_unclaimed_total", "Vehicles that were let in before Redis had answered, or while it was away; their claim follows."),
		taken:     to.Counter("cell_vehicles_taken_total", "Vehicles that came from another gateway."),
		notices:   to.Counters("cell_notices_total", "Notices between gateways by direction (sent, received) and kind; one that was sent may be lost.", "direction", "kind"),
		came: to.Counters("cell_operator_states_in_total", "What rules' operators remember of a vehicle that came, by what has become of it: asked (the gateway before has given it), "+
			"left (by one that has stopped), late (the vehicle was connected before), none (there is none), lost, busy (too many came at a time). After lost and busy the rules begin anew with the vehicle.", "result"),
		gone: to.Counters("cell_operator_states_out_total", "What rules' operators remember of a vehicle that went, by what has become of it: given, none, refused, left (at the stop), "+
			"unleft (at the stop: a bound, or Redis), forgotten (unasked).", "result"),
		bytes: to.Counters("cell_operator_states_bytes_total", "Size of what rules' operators remember of vehicles that came (in) and went (out).", "direction"),
	}
	for _, result := range []string{"made", "again", "refused", "missed", "unanswered"} {
		m.claims.WithLabelValues(result)
	}
	for _, kind := range noticeKinds {
		m.notices.WithLabelValues("sent", kind)
		m.notices.WithLabelValues("received", kind)
	}
	for _, result := range []string{stateAsked, stateLeft, stateLate, stateNone, stateLost, stateBusy} {
		m.came.WithLabelValues(result)
	}
	for _, result := range []string{stateGiven, stateNone, stateRefused, stateLeft, stateUnleft, stateForgotten} {
		m.gone.WithLabelValues(result)
	}
	return m
}

// claimed counts an answer to a claim, of a connection that had the epoch known before, 0 none.
func (m *cellMetrics) claimed(got *cell.Claimed, err error, known int64, took time.Duration) {
	result := "made"
	switch {
	case err != nil:
		result = "unanswered"
	case got.Verdict != cell.OK && known != 0:
		result = "missed"
	case got.Verdict != cell.OK:
		result = "refused"
	case known == got.Epoch:
		result = ""
	case known != 0:
		result = "again"
	}
	if result != "" {
		m.claims.WithLabelValues(result).Inc()
	}
	if err == nil {
		m.seconds.Observe(took.Seconds())
	}
}

func (m *cellMetrics) sent(kind string) { m.notices.WithLabelValues("sent", kind).Inc() }

// received counts a notice. One of another version may be of a kind that nobody here knows.
func (m *cellMetrics) received(kind string) {
	if slices.Contains(noticeKinds, kind) {
		m.notices.WithLabelValues("received", kind).Inc()
	}
}

// stateCame counts what has become of the state of a vehicle that came.
func (m *cellMetrics) stateCame(result string, bytes int) {
	m.came.WithLabelValues(result).Inc()
	m.bytes.WithLabelValues("in").Add(float64(bytes))
}

// stateGone counts what has become of the state of a vehicle that went.
func (m *cellMetrics) stateGone(result string, bytes int) {
	m.gone.WithLabelValues(result).Inc()
	m.bytes.WithLabelValues("out").Add(float64(bytes))
}
