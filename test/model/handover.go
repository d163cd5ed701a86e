package model

import (
	"fmt"
	"hash/maphash"
)

// A second model: one QoS 2 packet identifier of a vehicle that moves between gateways (MQTT 5, 4.3.3). The vehicle uses it
// for one message after the other. The promise: a message that was acknowledged is in a journal, synced; and a gateway whose session
// has the identifier of a message does not accept it again.

// HandoverCase bounds the histories: gateways, messages, connections, killed gateways, gateways without power, and how often
// Redis goes away.
type HandoverCase struct {
	Gateways, Messages, Connects, Kills, Cuts, Absences int
	// Equal: all messages have the same topic and payload.
	Equal bool
	// States ends the search as too large.
	States int
}

// HandoverRules are the rules of broker/session for the identifiers of vehicles.
type HandoverRules struct {
	// AckAfterSync: PUBREC and PUBCOMP wait for the journal. StoreAfterSync: so does the session in Redis.
	AckAfterSync, StoreAfterSync bool
	// Connection: an identifier from before the connection is doubted, also if this gateway has it from its own journal. It
	// counts only with DUP and the same sum.
	Connection, Dup, Sum bool
	// RecordKept: after a restart an identifier counts only if its record is in the journal. SumKept: its sum is on the disk.
	RecordKept, SumKept bool
}

// AllHandover is every rule.
func AllHandover() HandoverRules {
	return HandoverRules{AckAfterSync: true, StoreAfterSync: true, Connection: true, Dup: true, Sum: true, RecordKept: true, SumKept: true}
}

// Bounds of the model. released in a journal is the release of the identifier; other records are messages.
const (
	maxLog   = 6
	released = 0xff
)

// used is the identifier in a session: its message (0: it is free), the end of its record in the gateway's own journal (0: in another
// one's), and the connection that used it.
type used struct {
	Msg, At, Conn uint8
	Summed        bool
}

// keeper is a gateway: whether it has the session, its connection (0: none), its journal, and what waits to be acknowledged.
type keeper struct {
	Has           bool
	Used          used
	Conn          uint8
	Log           [maxLog]uint8
	Len, Synced   uint8
	Floor         uint8 // records up to it are of earlier sessions
	Waits, WaitAt uint8 // the packet type 5 (PUBREC) or 7 (PUBCOMP), and the record that it waits for
}

// exchange is the stage of the vehicle's message.
type exchange uint8

const (
	finished  exchange = iota
	published          // sent at least once, no PUBREC
	received           // PUBREC
	releasing          // PUBREL sent
)

// handover is one moment of a history.
type handover struct {
	Gateways [maxGateways]keeper
	// Redis: whether it is away, the owner plus 1, whether it has a session, the message of its identifier.
	Away    bool
	Owner   uint8
	Session bool
	Stored  uint8
	// The vehicle: its gateway, its connection, its message, and whether it sent its last packet on this connection.
	At, Conn, Msg uint8
	Stage         exchange
	Sent          bool
	Acked         uint8 // messages with a PUBREC
	// Twice: a message was accepted a second time although the session had it.
	Twice bool

	Kills, Cuts, Absences uint8 // used up
}

// HandoverKind is the kind of a HandoverStep.
type HandoverKind uint8

// The kinds of steps.
const (
	HandoverConnects HandoverKind = iota
	HandoverPublishes
	HandoverSyncs
	HandoverAcknowledges
	HandoverReleases
	HandoverStores
	HandoverHears
	HandoverClaims
	HandoverKilled
	HandoverPowerCut
	HandoverRedisAway
	HandoverRedisBack
)

// HandoverStep is one event of a history.
type HandoverStep struct {
	Kind    HandoverKind
	Gateway int
	// Of a connect: whether the session is present. Of a PUBLISH: its message and DUP, and whether it is taken for a repeat.
	Present, Dup, Repeat bool
	Message              int
	// Of a PUBLISH: what the session had under the identifier.
	had string
}

// String returns the step as a counterexample shows it.
func (s HandoverStep) String() string {
	g := string('A' + rune(s.Gateway))
	switch s.Kind {
	case HandoverConnects:
		return fmt.Sprintf("the vehicle connects to gateway %s, session present: %v", g, s.Present)
	case HandoverPublishes:
		return fmt.Sprintf("the vehicle publishes message %d, DUP %v; gateway %s had %s, takes it for a repeat: %v", s.Message, s.Dup, g, s.had, s.Repeat)
	case HandoverSyncs:
		return "gateway " + g + " syncs its journal"
	case HandoverAcknowledges:
		return "the vehicle gets the acknowledgement of gateway " + g
	case HandoverReleases:
		return "gateway " + g + " gets PUBREL"
	case HandoverStores:
		return "gateway " + g + " stores the session in Redis"
	case HandoverHears:
		return "gateway " + g + " hears that another one has the vehicle"
	case HandoverClaims:
		return "gateway " + g + " claims the vehicle, Redis being back"
	case HandoverKilled:
		return "gateway " + g + " is killed and starts again"
	case HandoverPowerCut:
		return "gateway " + g + " loses its power and starts again"
	case HandoverRedisAway:
		return "Redis goes away"
	default:
		return "Redis is back"
	}
}

// handovers searches the histories of a HandoverCase under some rules.
type handovers struct {
	HandoverCase
	HandoverRules
}

// SearchHandovers walks a case breadth first until a promise is broken.
func SearchHandovers(c HandoverCase, r HandoverRules) (Result, error) {
	w := (&handovers{c, r}).walk()
	return w.from(handover{})
}

// HandoverHistories returns histories of a case that end with a PUBLISH, shortest first, up to a length: one for every kind of decision
// about it and every set of kinds of steps at each gateway.
func HandoverHistories(c HandoverCase, longest int) ([][]HandoverStep, error) {
	type decision struct {
		had         string
		dup, repeat bool
		steps       uint64
	}
	seen := map[decision]bool{}
	var all [][]HandoverStep
	w := (&handovers{c, AllHandover()}).walk()
	w.depth = longest
	w.taken = func(from uint32, by HandoverStep) {
		if by.Kind != HandoverPublishes {
			return
		}
		history, d := append(w.history(from), by), decision{had: by.had, dup: by.Dup, repeat: by.Repeat}
		for _, step := range history {
			d.steps |= 1 << (int(step.Kind)*maxGateways + step.Gateway)
		}
		if !seen[d] {
			seen[d] = true
			all = append(all, history)
		}
	}
	if res, err := w.from(handover{}); err != nil || res.Broken != "" {
		return nil, fmt.Errorf("%v %w", res, err)
	}
	return all, nil
}

func (m *handovers) walk() *walk[handover, HandoverStep] {
	seeds := [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	return &walk[handover, HandoverStep]{
		key: func(s *handover) [2]uint64 {
			return [2]uint64{maphash.Comparable(seeds[0], *s), maphash.Comparable(seeds[1], *s)}
		},
		each: m.each, broken: (*handover).broken, states: m.States,
	}
}

// broken returns the promise that the state breaks, "" for none.
func (s *handover) broken() string {
	if s.Twice {
		return "a message is accepted twice by a session that has its identifier"
	}
	for msg := uint8(1); msg <= s.Msg; msg++ {
		if s.Acked&bit(msg) != 0 && !s.kept(msg) {
			return fmt.Sprintf("message %d is acknowledged and lost", msg)
		}
	}
	return ""
}

// kept reports whether a message is durable in a journal.
func (s *handover) kept(msg uint8) bool {
	for i := range s.Gateways {
		k := &s.Gateways[i]
		for _, rec := range k.Log[:k.Synced] {
			if rec == msg {
				return true
			}
		}
	}
	return false
}

// each calls yield with every possible next step.
func (m *handovers) each(s *handover, yield func(HandoverStep, handover)) {
	for g := range m.Gateways {
		m.eachOf(s, uint8(g), yield)
	}
	m.eachOfVehicle(s, yield)
	if t := *s; s.Away {
		t.Away = false
		yield(HandoverStep{Kind: HandoverRedisBack}, t)
	} else if int(s.Absences) < m.Absences {
		t.Away = true
		t.Absences++
		yield(HandoverStep{Kind: HandoverRedisAway}, t)
	}
}

// eachOf tries every step at a gateway.
func (m *handovers) eachOf(s *handover, g uint8, yield func(HandoverStep, handover)) {
	do := func(kind HandoverKind, change func(t *handover, k *keeper)) {
		t := *s
		change(&t, &t.Gateways[g])
		yield(HandoverStep{Kind: kind, Gateway: int(g)}, t)
	}
	k := &s.Gateways[g]
	owns := !s.Away && s.Owner == g+1
	if int(s.Conn) < m.Connects && (s.Conn > 0 || g == 0) { // gateways are equal
		t := *s
		present := t.connect(g)
		yield(HandoverStep{Kind: HandoverConnects, Gateway: int(g), Present: present}, t)
	}
	if k.Synced < k.Len {
		do(HandoverSyncs, func(_ *handover, k *keeper) { k.Synced = k.Len })
	}
	synced := k.Used.Msg == 0 || k.Used.At <= k.Synced || !m.StoreAfterSync
	if k.Has && owns && synced && (!s.Session || s.Stored != k.Used.Msg) {
		do(HandoverStores, func(t *handover, k *keeper) { t.Session, t.Stored = true, k.Used.Msg })
	}
	if k.Has && !s.Away && s.Owner != 0 && !owns && (s.At != g || k.Conn != s.Conn) {
		do(HandoverHears, func(_ *handover, k *keeper) { k.Has, k.Used = false, used{} })
	}
	if !s.Away && !owns && s.Conn != 0 && k.Conn == s.Conn {
		do(HandoverClaims, func(t *handover, _ *keeper) { t.Owner = g + 1 })
	}
	if k.Has && int(s.Kills) < m.Kills {
		do(HandoverKilled, func(t *handover, k *keeper) { t.Kills++; m.restart(k, k.Len) })
	}
	if k.Has && int(s.Cuts) < m.Cuts {
		do(HandoverPowerCut, func(t *handover, k *keeper) { t.Cuts++; m.restart(k, k.Synced) })
	}
}

// connect moves the vehicle's connection to a gateway and finds its session there.
func (s *handover) connect(g uint8) (present bool) {
	s.Gateways[s.At].Conn, s.Gateways[s.At].Waits = 0, 0
	s.Conn++
	s.At, s.Sent = g, false
	k := &s.Gateways[g]
	k.Conn = s.Conn
	if !s.Away {
		if here := s.Owner == 0 || s.Owner == g+1; !here || !k.Has {
			if k.Has = s.Session; k.Has {
				k.Used, k.Floor = used{Msg: s.Stored, Summed: s.Stored != 0}, k.Len
			}
		}
		s.Owner = g + 1
	}
	if k.Has {
		return true
	}
	k.Has, k.Used, k.Floor = true, used{}, k.Len
	if s.Stage >= received { // the vehicle has no session either: the exchange is over
		s.Stage = finished
	}
	return false
}

// restart is what a gateway has after it was killed: the journal up to a record, and the session on its disk.
func (m *handovers) restart(k *keeper, end uint8) {
	before := k.Used
	clear(k.Log[end:])
	k.Conn, k.Waits, k.WaitAt, k.Len, k.Synced = 0, 0, 0, end, end
	switch {
	case before.Msg != 0 && before.At == 0: // of another gateway
		k.Used.Summed = before.Summed && m.SumKept
		return
	case before.Msg != 0 && before.At > end && !m.RecordKept:
		k.Used.At = end
		return
	}
	k.Used = used{}
	for i := k.Floor; i < end; i++ {
		if k.Used = (used{}); k.Log[i] != released {
			k.Used = used{Msg: k.Log[i], At: i + 1, Summed: m.SumKept}
		}
	}
}

// eachOfVehicle tries what the vehicle sends, and what it gets.
func (m *handovers) eachOfVehicle(s *handover, yield func(HandoverStep, handover)) {
	k := &s.Gateways[s.At]
	if s.Conn == 0 || k.Conn != s.Conn {
		return
	}
	if k.Waits != 0 && (k.WaitAt <= k.Synced || !m.AckAfterSync) {
		t := *s
		t.acknowledge()
		yield(HandoverStep{Kind: HandoverAcknowledges, Gateway: int(s.At)}, t)
	}
	if k.Len == maxLog || s.Sent {
		return
	}
	switch s.Stage {
	case finished:
		if int(s.Msg) < m.Messages {
			t := *s
			t.Msg++
			m.publish(&t, false, yield)
		}
	case published:
		m.publish(s, true, yield)
	case received, releasing:
		t := *s
		t.release()
		yield(HandoverStep{Kind: HandoverReleases, Gateway: int(s.At)}, t)
	}
}

// publish lets the vehicle's gateway decide about a PUBLISH.
func (m *handovers) publish(s *handover, dup bool, yield func(HandoverStep, handover)) {
	t := *s
	k := &t.Gateways[t.At]
	had := k.Used
	repeat := m.repeats(&had, t.Conn, dup, t.Msg)
	t.Stage, t.Sent, k.Waits = published, true, 5
	if repeat {
		k.WaitAt = had.At
	} else {
		t.Twice = had.Msg == t.Msg && !m.Equal
		k.Log[k.Len] = t.Msg
		k.Len++
		k.WaitAt = k.Len
		k.Used = used{Msg: t.Msg, At: k.Len, Conn: t.Conn, Summed: true}
	}
	yield(HandoverStep{Kind: HandoverPublishes, Gateway: int(t.At), Message: int(t.Msg), Dup: dup, Repeat: repeat, had: had.describe(t.Msg)}, t)
}

// describe says what the session has under the identifier of a message's PUBLISH.
func (u *used) describe(msg uint8) string {
	if u.Msg == 0 {
		return "nothing"
	}
	from, what := "its own journal", "another message"
	if u.At == 0 {
		from = "another gateway"
	}
	if u.Msg == msg {
		what = "this message"
	}
	return what + " of " + from
}

// repeats decides whether a PUBLISH repeats the message of its identifier, as broker/session does.
func (m *handovers) repeats(u *used, conn uint8, dup bool, msg uint8) bool {
	switch {
	case u.Msg == 0:
		return false
	case u.Conn == conn, u.At != 0 && !m.Connection:
		return true
	case !dup && m.Dup:
		return false
	case !u.Summed:
		return u.At != 0
	default:
		return u.Msg == msg || m.Equal || !m.Sum
	}
}

func (s *handover) acknowledge() {
	k := &s.Gateways[s.At]
	if k.Waits == 5 {
		s.Stage, s.Acked = received, s.Acked|bit(s.Msg)
	} else {
		s.Stage = finished
	}
	k.Waits, k.WaitAt, s.Sent = 0, 0, false
}

// release is the gateway's part for a PUBREL.
func (s *handover) release() {
	k := &s.Gateways[s.At]
	s.Stage, s.Sent, k.Waits, k.WaitAt = releasing, true, 7, 0
	if k.Used.Msg != 0 {
		k.Log[k.Len] = released
		k.Len++
		k.Used, k.WaitAt = used{}, k.Len
	}
}
