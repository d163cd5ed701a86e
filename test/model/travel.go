package model

import (
	"fmt"
	"hash/maphash"
	"slices"
)

// A third model: what the rules of a gateway remember of a vehicle that moves. The vehicle's records are high or low, and one rule sends an
// alarm when they become high. The promise: no alarm is missing, and none is sent twice unless a gateway was killed, or did not answer in
// time.

// TravelCase bounds the histories: gateways, records, connections, killed gateways, gateways that stop, questions that are not waited for.
type TravelCase struct {
	Gateways, Records, Connects, Kills, Stops, Timeouts int
	// States ends the search as too large.
	States int
}

// TravelRules are the rules of cmd/cellgate/app (stateMoves) and rules/sink for operators' state.
type TravelRules struct {
	// Hold: records wait for the state. Over: a connection whose records wait does not end before they do, and the vehicle's next one there waits for
	// its end. EndFirst: a gateway gives the state when the vehicle's connection to it has ended.
	Hold, Over, EndFirst bool
	// Refused: if the vehicle is back at the gateway that is asked, the records wait until the one that asks knows it.
	Refused bool
	// Forget: a gateway that gives the state forgets it. ForgetLost: one that does not get it in time forgets its own, which is older.
	Forget, ForgetLost bool
	// Later: of two states the later one counts.
	Later bool
	// StopWaits: a gateway that stops waits for its questions.
	StopWaits bool
	// LeftSince: state left in Redis counts only if it was left after the connection began.
	LeftSince bool
}

// AllTravel is every rule.
func AllTravel() TravelRules {
	return TravelRules{Hold: true, Over: true, EndFirst: true, Refused: true, Forget: true, ForgetLost: true, Later: true, StopWaits: true, LeftSince: true}
}

// inquiry is a question for the vehicle's state: for which connection, at which gateway plus 1 (0: none) and what connection the vehicle had
// there, the answer, a record plus 1, and whether the connection's records wait for it.
type inquiry struct {
	Conn, Of, Former, Answer uint8
	Waits                    bool
}

// host is a gateway: the record that its rules remember (0: none), its connection, whether it knows that another gateway has the vehicle, a
// record that it has not journaled yet, and what it asks.
type host struct {
	Down     bool
	Memory   uint8
	Conn     uint8
	Lost     bool
	Sent     uint8
	Inquires [2]inquiry
	// Left is what it left in Redis, a record plus 1, and Since the connections made until then.
	Left, Since uint8
}

// travel is one moment of a history.
type travel struct {
	Gateways [maxGateways]host
	Owner    uint8 // plus 1
	Claimed  uint8 // its connection
	// The vehicle: its gateway, its connection, its last record, whether that is not acknowledged, whether it was sent on this connection.
	At, Conn, Record uint8
	Open, Sent       bool
	High             uint8 // records, as bits
	Alarms           uint8 // records
	Missed, Twice    bool
	Faulty           bool // alarms may come twice

	Kills, Stops, Timeouts uint8 // used up
}

// travelStep is one event.
type travelStep struct {
	text string
	g    uint8
}

// String returns the step as a counterexample shows it.
func (s travelStep) String() string { return fmt.Sprintf(s.text, 'A'+rune(s.g)) }

type travels struct {
	TravelCase
	TravelRules
}

// SearchTravels walks a case breadth first until a promise is broken.
func SearchTravels(c TravelCase, r TravelRules) (Result, error) {
	m := travels{c, r}
	seeds := [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	w := walk[travel, travelStep]{
		key: func(s *travel) [2]uint64 {
			return [2]uint64{maphash.Comparable(seeds[0], *s), maphash.Comparable(seeds[1], *s)}
		},
		each: m.each, broken: (*travel).broken, states: m.States,
	}
	return w.from(travel{})
}

func (s *travel) broken() string {
	switch {
	case s.Missed:
		return "an alarm is missing"
	case s.Twice && !s.Faulty:
		return "an alarm is sent twice although nothing failed"
	default:
		return ""
	}
}

// each calls yield with every possible next step.
func (m *travels) each(s *travel, yield func(travelStep, travel)) {
	for g := range uint8(m.Gateways) {
		do := func(text string, change func(t *travel, h *host)) {
			t := *s
			change(&t, &t.Gateways[g])
			yield(travelStep{text, g}, t)
		}
		if h := &s.Gateways[g]; h.Down {
			if !s.inquired(g) { // a start takes longer than a question
				do("gateway %c starts again", func(t *travel, h *host) { h.Down = false; t.sweep(g) })
			}
			continue
		}
		m.eachOfVehicle(s, g, do)
		m.eachOfHost(s, g, do)
		for i := range s.Gateways[g].Inquires {
			m.eachOfInquiry(s, g, i, do)
		}
	}
}

type change func(text string, change func(*travel, *host))

// eachOfVehicle tries what the vehicle does at a gateway.
func (m *travels) eachOfVehicle(s *travel, g uint8, do change) {
	h := &s.Gateways[g]
	if int(s.Conn) < m.Connects && (s.Conn > 0 || g == 0) && (!m.Over || !h.holds()) {
		do("the vehicle connects to gateway %c", func(t *travel, _ *host) { m.connect(t, g) })
	}
	if s.At != g || s.Conn == 0 || h.Conn != s.Conn || s.Sent {
		return
	}
	send := func(t *travel, h *host) { h.Sent, t.Open, t.Sent = t.Record, true, true }
	if s.Open {
		do("the vehicle sends its record again, to gateway %c", send)
		return
	}
	if int(s.Record) == m.Records {
		return
	}
	do("the vehicle sends a low record to gateway %c", func(t *travel, h *host) { t.Record++; send(t, h) })
	do("the vehicle sends a high record to gateway %c", func(t *travel, h *host) { t.Record++; t.High |= bit(t.Record); send(t, h) })
}

// connect moves the vehicle. Its previous gateway may keep the connection for a long time.
func (m *travels) connect(s *travel, g uint8) {
	h := &s.Gateways[g]
	s.Conn++
	former, of := s.Owner, s.Claimed
	s.At, s.Sent, s.Owner, s.Claimed = g, false, g+1, s.Conn
	h.Conn, h.Sent, h.Lost = s.Conn, 0, false
	if former != 0 && former != g+1 {
		h.Inquires[1] = h.Inquires[0]
		h.Inquires[0] = inquiry{Conn: s.Conn, Of: former, Former: of, Waits: m.Hold}
	}
}

// asks reports whether records may wait for an answer.
func (h *host) asks() bool {
	return slices.ContainsFunc(h.Inquires[:], func(q inquiry) bool { return q.Waits })
}

// holds reports whether the records of the gateway's connection wait.
func (h *host) holds() bool {
	return slices.ContainsFunc(h.Inquires[:], func(q inquiry) bool { return q.Waits && q.Conn == h.Conn })
}

// eachOfHost tries what a gateway does by itself.
func (m *travels) eachOfHost(s *travel, g uint8, do change) {
	h := &s.Gateways[g]
	current := h.Conn != 0 && h.Conn == s.Conn
	if h.Sent != 0 && !h.holds() {
		do("gateway %c journals and evaluates a record", func(t *travel, _ *host) { t.evaluate(g) })
	}
	if h.Conn != 0 && !current && !h.Lost {
		do("gateway %c learns that another one has the vehicle", func(_ *travel, h *host) { h.Lost, h.Sent = true, 0 })
	}
	if h.Lost && h.Conn != 0 && (!m.Over || !h.holds()) {
		do("gateway %c has ended its connection", func(_ *travel, h *host) { h.Conn = 0 })
	}
	if h.Conn == 0 && h.Memory != 0 && s.Owner != g+1 && !s.inquired(g) {
		do("gateway %c forgets a vehicle that another one has", func(t *travel, _ *host) { t.sweep(g) })
	}
	if int(s.Stops) < m.Stops && (!h.asks() || !m.StopWaits) {
		do("gateway %c stops and leaves its state in Redis", func(t *travel, h *host) {
			t.Stops++
			*h = host{Down: true, Memory: h.Memory, Left: h.Memory + 1, Since: t.Conn}
		})
	}
	if int(s.Kills) < m.Kills {
		do("gateway %c is killed", func(t *travel, h *host) {
			t.Kills++
			t.Faulty = true
			*h = host{Down: true, Memory: h.Memory, Left: h.Left, Since: h.Since}
		})
	}
}

// inquired reports whether a gateway is asked for the vehicle's state: it forgets it later than that.
func (s *travel) inquired(g uint8) bool {
	for i := range s.Gateways {
		for _, q := range s.Gateways[i].Inquires {
			if q.Of == g+1 && q.Answer == 0 {
				return true
			}
		}
	}
	return false
}

// sweep forgets a vehicle that another gateway has.
func (s *travel) sweep(g uint8) {
	if s.Owner != 0 && s.Owner != g+1 {
		s.Gateways[g].Memory = 0
	}
}

// evaluate is the rule: an alarm when the records become high.
func (s *travel) evaluate(g uint8) {
	h := &s.Gateways[g]
	rec := h.Sent
	h.Sent = 0
	if h.Conn == s.Conn { // the vehicle gets the acknowledgement
		s.Open, s.Sent = false, false
	}
	high := func(rec uint8) bool { return s.High&bit(rec) != 0 }
	if high(rec) && (h.Memory == 0 || !high(h.Memory)) {
		s.Twice = s.Twice || s.Alarms&bit(rec) != 0 || high(rec-1)
		s.Alarms |= bit(rec)
	}
	s.Missed = s.Missed || high(rec) && !high(rec-1) && s.Alarms&bit(rec) == 0
	h.Memory = rec
}

// eachOfInquiry tries what becomes of a question.
func (m *travels) eachOfInquiry(s *travel, g uint8, i int, do change) {
	h := &s.Gateways[g]
	q := h.Inquires[i]
	if q.Of == 0 {
		return
	}
	lose := func(h *host) {
		if q.Waits && m.ForgetLost {
			h.Memory = 0
		}
	}
	of := &s.Gateways[q.Of-1]
	back := of.Conn > q.Conn
	left := of.Left != 0 && (of.Since >= q.Former || !m.LeftSince)
	switch {
	case q.Answer != 0:
		do("gateway %c takes the state", func(_ *travel, h *host) {
			h.Inquires[i] = inquiry{}
			if state := q.Answer - 1; state != 0 && (state > h.Memory || !m.Later) {
				h.Memory = state
			}
		})
	case of.Down && left:
		do("gateway %c reads what the other one left in Redis", func(t *travel, h *host) { h.Inquires[i].Answer = of.Left })
	case of.Down:
		do("gateway %c finds no state", func(_ *travel, h *host) { h.Inquires[i] = inquiry{}; lose(h) })
	case back && (h.Conn != q.Conn || h.Lost || !m.Refused):
		do("gateway %c is told that the vehicle is back", func(_ *travel, h *host) { h.Inquires[i] = inquiry{} })
	case !back && (of.Conn == 0 || !m.EndFirst):
		do("gateway %c is given the state", func(t *travel, h *host) {
			former := &t.Gateways[q.Of-1]
			h.Inquires[i].Answer = former.Memory + 1
			if m.Forget {
				former.Memory = 0
			}
		})
	}
	if q.Waits && int(s.Timeouts) < m.Timeouts {
		do("gateway %c waits no longer", func(t *travel, h *host) {
			t.Timeouts++
			t.Faulty = true
			h.Inquires[i].Waits = false
			lose(h)
		})
	}
}
