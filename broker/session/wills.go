package session

import (
	"time"

	"cellgate/broker/shared/message"
)

// willRetry is the delay before a failed journal append of a will is repeated.
const willRetry = time.Second

// willGrace is how long after the start the will of a vehicle from before the start waits at least: the vehicle may be at
// another gateway of the cell.
const willGrace = 10 * time.Second

// RestoredWills returns the vehicles whose wills have waited since before the start. The caller calls Moved, with the
// claim 0, for those that another gateway of the cell has, within willGrace.
func (m *Manager) RestoredWills() []string { return m.willing }

// willPermitted reports whether a client may have a will on the topic. A will never publishes a token: v1/{vin}/token
// goes to the authenticator, not into the journal.
func willPermitted(perm Permissions, topic string) bool {
	_, branch, _ := message.SplitTopic(topic)
	return branch != "token" && message.ValidTopic(topic) == nil && perm.Publish(topic)
}

func cloneWill(w *Will) *Will {
	if w == nil {
		return nil
	}
	r := message.Record{Payload: w.Payload, Props: w.Props}
	r = r.Clone()
	c := *w
	c.Payload, c.Props = r.Payload, r.Props
	return &c
}

// armWill decides at the end of a connection whether and when its will is sent. perm are the connection's last
// permissions: a refreshed token may allow less than the one at CONNECT.
func (st *state) armWill(normal bool, perm Permissions, now int64) {
	if st.will == nil {
		return
	}
	if normal || st.ended || !willPermitted(perm, st.will.Topic) {
		st.will, st.willAt = nil, 0
		return
	}
	st.permitted = st.m.passed(st.notAfter)
	st.willAt = now + min(st.will.Delay, st.expiry).Milliseconds()
}

// takeWill returns the will as a record if it is due by now, and removes it.
func (st *state) takeWill(now int64) (message.Record, bool) {
	if st.willAt == 0 || st.willAt > now {
		return message.Record{}, false
	}
	w, due := st.will, st.willAt
	st.will, st.willAt = nil, 0
	st.changed(false)
	if st.permitted != 0 && due > st.permitted {
		st.m.metrics.wills.WithLabelValues("token_ended").Inc()
		return message.Record{}, false
	}
	return message.Record{
		Kind: message.KindPublish, Client: st.id, Topic: w.Topic, Payload: w.Payload,
		QoS: w.QoS, Retain: w.Retain, Props: w.Props,
	}, true
}

// finishWill handles the will of the client's last connection before a new one begins. A resume within its delay
// cancels it; otherwise it is in the journal before anything of the new connection.
func (m *Manager) finishWill(a *Attach) error {
	st := m.lookup(a.Key)
	if st == nil {
		return nil
	}
	now := m.now()
	st.mu.Lock()
	switch {
	case st.willAt == 0 || st.willAt <= now:
	case a.CleanStart || st.ended || st.expired(now):
		st.willAt = now // the session ends, and so its will is due
	default:
		st.will, st.willAt = nil, 0
		m.metrics.wills.WithLabelValues("cancelled").Inc()
	}
	rec, due := st.takeWill(now)
	st.unlock()
	if !due {
		return nil
	}
	return m.publishWill(st, &rec)
}

// publishWill appends the will to the journal. If that fails it becomes due again.
func (m *Manager) publishWill(st *state, rec *message.Record) error {
	will := Will{Topic: rec.Topic, Payload: rec.Payload, QoS: rec.QoS, Retain: rec.Retain, Props: rec.Props}
	claimed := false
	if rec.Retain {
		var err error
		if claimed, err = m.ClaimRetained(rec); err != nil {
			rec.Retain = false // a will cannot be refused: it is sent to current subscribers only
		}
	}
	seq, err := m.journal.Append([]message.Record{*rec})
	if claimed {
		m.claimEnded(rec.Topic, seq)
	}
	if err != nil {
		m.metrics.wills.WithLabelValues("failed").Inc()
		m.log.Warn("will not appended, trying again", "client", st.id, "err", err)
		st.mu.Lock()
		st.will = &will
		st.willAt = m.now() + willRetry.Milliseconds()
		st.schedule()
		st.unlock()
		return err
	}
	m.metrics.wills.WithLabelValues("sent").Inc()
	return nil
}
