package session

import (
	"time"

	"cellgate/broker/shared/message"
)

// willRetry is how long a will waits that the journal did not take.
const willRetry = time.Second

// willPermitted reports whether a client may have a will on the topic. A token is never published by a will:
// v1/{vin}/token goes to the authenticator and not into the journal.
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

// armWill decides at the end of a connection whether its will is to be sent, and when. perm are
// the connection's last permissions: a refreshed token may allow less than the CONNECT's did.
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

// takeWill returns the will as a record if it is due by now, and forgets it.
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

// settleWill deals with the will of the client's last connection before a new one begins: it is cancelled
// by a resume within its delay, else it is in the journal before anything of the new connection is.
func (m *Manager) settleWill(a *Attach) error {
	st := m.lookup(a.Key)
	if st == nil {
		return nil
	}
	now := m.now()
	st.mu.Lock()
	switch {
	case st.willAt == 0 || st.willAt <= now:
	case a.CleanStart || st.ended || st.expired(now):
		st.willAt = now // the session ends, and the will with it is due
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
			rec.Retain = false // nobody is there to be refused: it is sent to whoever subscribes now
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
