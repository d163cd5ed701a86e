package console

import (
	"crypto/rand"
	"sync"
	"time"

	"cellgate/auth"
)

// Bounds of sessions. Beyond them, the least recently used session ends.
const (
	maxSessions           = 256
	maxSessionsPerSubject = 16
	sessionIdle           = 12 * time.Hour
)

// session is one login. Its token is verified with every request, so the session ends when the token does.
type session struct {
	key   string // in the cookie
	csrf  string // in every form
	token string
	owner string // issuer, role and subject

	used   time.Time // guarded by sessions.mu, as is notice
	notice notice
}

// notice is a message about the last request, for the next page.
type notice struct {
	Text   string
	Failed bool
}

// sessions are in memory: a restart ends them.
type sessions struct {
	now func() time.Time

	mu    sync.Mutex // guards below
	byKey map[string]*session
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, byKey: make(map[string]*session)}
}

// open creates a session for a verified token.
func (s *sessions) open(token string, id *auth.Identity) *session {
	n := &session{key: rand.Text(), csrf: rand.Text(), token: token, owner: id.Issuer + "\x00" + id.Role + "\x00" + id.Subject, used: s.now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest, oldestOwn *session
	own := 0
	for _, o := range s.byKey {
		if s.now().Sub(o.used) > sessionIdle {
			delete(s.byKey, o.key)
			continue
		}
		if oldest == nil || o.used.Before(oldest.used) {
			oldest = o
		}
		if o.owner == n.owner {
			if own++; oldestOwn == nil || o.used.Before(oldestOwn.used) {
				oldestOwn = o
			}
		}
	}
	switch {
	case own >= maxSessionsPerSubject:
		delete(s.byKey, oldestOwn.key)
	case len(s.byKey) >= maxSessions:
		delete(s.byKey, oldest.key)
	}
	s.byKey[n.key] = n
	return n
}

// get returns the session of a cookie's value, nil when there is none.
func (s *sessions) get(key string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.byKey[key]
	if found == nil {
		return nil
	}
	if s.now().Sub(found.used) > sessionIdle {
		delete(s.byKey, key)
		return nil
	}
	found.used = s.now()
	return found
}

func (s *sessions) end(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byKey, key)
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byKey)
}

// note leaves a notice for the session's next page.
func (s *sessions) note(to *session, n notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to.notice = n
}

// take returns the notice and removes it.
func (s *sessions) take(from *session) notice {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := from.notice
	from.notice = notice{}
	return n
}
