package session

import (
	"slices"
	"time"
)

// Get describes a client's session.
func (m *Manager) Get(clientID string) (Info, bool) {
	st := m.lookup(clientID)
	if st == nil {
		return Info{}, false
	}
	return st.info()
}

// List describes up to limit sessions with identifiers greater than after, in order.
func (m *Manager) List(after string, limit int) []Info { return m.Find("", after, limit) }

// Find is like List, restricted to identifiers that begin with a prefix.
func (m *Manager) Find(prefix, after string, limit int) []Info {
	found := m.sessions.first(prefix, after, limit)
	infos := make([]Info, 0, len(found))
	for _, st := range found {
		if info, ok := st.info(); ok {
			infos = append(infos, info)
		}
	}
	return infos
}

func (st *state) info() (Info, bool) {
	st.mu.Lock()
	defer st.unlock()
	if st.ended {
		return Info{}, false
	}
	info := Info{
		Key: st.id, Vehicle: st.vehicle, Connected: st.link.conn != nil, Version: st.version,
		Since: instant(st.since), Expiry: st.expiry, EndsAt: st.m.instant(st.endsAt), TokenEnds: instant(st.notAfter),
		Subscriptions: slices.Clone(st.subs), Ready: st.ready(), HasWill: st.will != nil,
	}
	if f := st.flow; f != nil {
		info.Queued, info.Inflight, info.QueuedBytes = f.waiting.len()+len(f.inflight)-f.next, f.next, f.bytes
	}
	if st.incoming != nil {
		info.IncomingQoS2 = len(st.incoming.ids)
	}
	return info, true
}

func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
