package app

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/cell"
	"cellgate/broker/shared/metric"
)

// cellMetrics are the metrics of the state that several gateways share.
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

// Outcomes of moving operators' state.
const (
	stateAsked     = "asked"     // answered in time by the previous gateway
	stateLeft      = "left"      // left in Redis by one that stopped
	stateLate      = "late"      // came after the vehicle's messages were let through
	stateNone      = "none"      // there was none
	stateLost      = "lost"      // no gateway answered
	stateBusy      = "busy"      // too many vehicles at a time
	stateGiven     = "given"     // to the gateway that asked
	stateRefused   = "refused"   // the vehicle is here, or the rules lag
	stateUnleft    = "unleft"    // not left at a stop: over the bound, or Redis failed
	stateForgotten = "forgotten" // without being asked: another gateway has the vehicle
)

func newCellMetrics(reg prometheus.Registerer) *cellMetrics {
	to := metric.For(reg)
	m := &cellMetrics{
		claims: to.Counters("cell_claims_total",
			"Claims of vehicles by result: made, again (Redis had lost the claim, or the vehicle counted as disconnected), "+
				"refused (a younger connection has the vehicle), missed (the same, but the notice was lost), unanswered.", "result"),
		seconds: to.Histogram("cell_claim_seconds", "Duration of answered claims.", prometheus.ExponentialBuckets(0.0005, 2, 12)...),
		unclaimed: to.Counter("cell_connects_unclaimed_total",
			"Vehicles admitted before Redis answered or while it was unavailable; they are claimed later."),
		taken: to.Counter("cell_vehicles_taken_total", "Vehicles that moved here from another gateway."),
		notices: to.Counters("cell_notices_total",
			"Notices between gateways by direction (sent, received) and kind. A sent notice may be lost.", "direction", "kind"),
		came: to.Counters("cell_operator_states_in_total",
			"Operator states of vehicles that moved here, by result: asked (the previous gateway sent it), left (the previous "+
				"gateway left it in Redis when it stopped), late (it arrived after messages of the vehicle), none (there was none), "+
				"lost (no gateway answered), busy (too many at a time). After lost and busy the rules start without state for the "+
				"vehicle.", "result"),
		gone: to.Counters("cell_operator_states_out_total",
			"Operator states of vehicles that moved away, by result: given, none, refused, left (in Redis at a stop), unleft "+
				"(not left at a stop: over the bound, or Redis failed), forgotten (no gateway asked for it).", "result"),
		bytes: to.Counters("cell_operator_states_bytes_total",
			"Size of operator states of rules that moved with vehicles to this gateway (in) and from it (out).", "direction"),
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

// claimed counts an answer to a claim. known is the connection's epoch before it, 0 for none.
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

// received counts a notice. Another version may send kinds that are unknown here.
func (m *cellMetrics) received(kind string) {
	if slices.Contains(noticeKinds, kind) {
		m.notices.WithLabelValues("received", kind).Inc()
	}
}

// stateCame counts the outcome for the state of an arriving vehicle.
func (m *cellMetrics) stateCame(result string, bytes int) {
	m.came.WithLabelValues(result).Inc()
	m.bytes.WithLabelValues("in").Add(float64(bytes))
}

// stateGone counts the outcome for the state of a vehicle that left.
func (m *cellMetrics) stateGone(result string, bytes int) {
	m.gone.WithLabelValues(result).Inc()
	m.bytes.WithLabelValues("out").Add(float64(bytes))
}
