package auth

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Revocation ends tokens before their time. Exactly one form is set:
//
//   - TokenID: the one token with this jti;
//   - Subject and IssuedBefore: every token of a subject issued up to that second. IssuedBefore may lie
//     ahead: then the subject is locked out, and nothing is issued for it, until that time;
//   - IssuedBefore alone: every token of every subject issued up to that second, which cannot lie ahead.
//
// It is a value and also the line format of the revocation file and of the store between gateways.
type Revocation struct {
	TokenID      string    `json:"jti,omitempty"`
	Subject      string    `json:"sub,omitempty"`
	IssuedBefore time.Time `json:"issued_before,omitzero"`
	// Until is when no token that the entry names can be valid any more. Revoke fills it.
	Until time.Time `json:"until"`
	At    time.Time `json:"at"`
	// Reason and By are for the audit log: why, and who.
	Reason string `json:"reason,omitempty"`
	By     string `json:"by,omitempty"`
	// Purge asks for the sessions and queued messages of Subject to be deleted too.
	Purge bool `json:"purge,omitempty"`
}

// Errors of Revoke.
var (
	// ErrInvalidRevocation says that a revocation names nothing, or too much.
	ErrInvalidRevocation = errors.New("invalid revocation")
	// ErrTooManyRevocations says that the list is full. One entry by issue time can replace many.
	ErrTooManyRevocations = errors.New("too many revocations in force")
)

// dropGrace is how much longer than needed an entry is kept, so that a clock that jumps ahead and back
// cannot bring a revoked token to life.
const dropGrace = 24 * time.Hour

// maxReasonBytes bounds the free text of an entry.
const maxReasonBytes = 256

// validate checks the form of an entry. now with slack bounds what may lie ahead.
func (r *Revocation) validate(now time.Time, slack time.Duration) error {
	fail := func(why string) error { return fmt.Errorf("%w: %s", ErrInvalidRevocation, why) }
	switch {
	case r.TokenID == "" && r.Subject == "" && r.IssuedBefore.IsZero():
		return fail("name a jti, a sub, or an issue time")
	case r.TokenID != "" && (r.Subject != "" || !r.IssuedBefore.IsZero()):
		return fail("a jti stands alone")
	case len(r.TokenID) > maxTokenIDBytes:
		return fail("jti is too long")
	case r.Subject != "" && ValidSubject(r.Subject) != nil:
		return fail("sub is not a valid subject")
	case r.Subject != "" && r.IssuedBefore.IsZero():
		return fail("a sub needs an issue time")
	case r.Subject == "" && r.TokenID == "" && r.IssuedBefore.After(now.Add(slack)):
		return fail("an issue time without a sub cannot lie ahead: it would lock everyone out")
	case r.IssuedBefore.After(now.AddDate(100, 0, 0)):
		return fail("issue time is more than a hundred years ahead")
	case r.Purge && r.Subject == "":
		return fail("purge needs a sub")
	case len(r.Reason) > maxReasonBytes || len(r.By) > maxReasonBytes:
		return fail("reason is too long")
	}
	return nil
}

// revocations is the set in force. Reads take a shared lock and do not allocate.
type revocations struct {
	mu      sync.RWMutex
	byToken map[string]Revocation
	bySub   map[string]Revocation // "" is everyone
}

func newRevocations() *revocations {
	return &revocations{byToken: make(map[string]Revocation), bySub: make(map[string]Revocation)}
}

// add merges an entry and reports whether it says anything new.
func (s *revocations) add(r Revocation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hasLocked(&r) {
		return false
	}
	if r.TokenID != "" {
		s.byToken[r.TokenID] = r
	} else {
		s.bySub[r.Subject] = r
	}
	return true
}

// has reports whether an entry would say nothing new.
func (s *revocations) has(r *Revocation) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.hasLocked(r)
}

func (s *revocations) hasLocked(r *Revocation) bool {
	if r.TokenID != "" {
		old, found := s.byToken[r.TokenID]
		return found && !r.Until.After(old.Until)
	}
	old, found := s.bySub[r.Subject]
	return found && !r.IssuedBefore.After(old.IssuedBefore)
}

// revoked reports whether an identity's token is revoked. Times are in whole seconds: a token of the very
// second of the revocation is revoked too.
func (s *revocations) revoked(id *Identity) bool {
	if id.Anonymous {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, found := s.byToken[id.TokenID]; found && id.TokenID != "" {
		return true
	}
	if r, found := s.bySub[id.Subject]; found && !id.IssuedAt.After(r.IssuedBefore) {
		return true
	}
	r, found := s.bySub[""]
	return found && !id.IssuedAt.After(r.IssuedBefore)
}

// issuable returns the earliest issue time that is not revoked for a subject.
func (s *revocations) issuable(subject string, now time.Time) time.Time {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at := now
	for _, name := range [...]string{subject, ""} {
		if r, found := s.bySub[name]; found && !at.After(r.IssuedBefore) {
			at = r.IssuedBefore.Add(time.Second)
		}
	}
	return at
}

// prune drops the entries that name no token that could still be valid, and returns how many.
func (s *revocations) prune(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, m := range [...]map[string]Revocation{s.byToken, s.bySub} {
		for k, r := range m {
			if now.After(r.Until.Add(dropGrace)) {
				delete(m, k)
				n++
			}
		}
	}
	return n
}

func (s *revocations) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.byToken) + len(s.bySub)
}

// all returns the entries in force, in no order.
func (s *revocations) all() []Revocation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Revocation, 0, len(s.byToken)+len(s.bySub))
	for _, m := range [...]map[string]Revocation{s.byToken, s.bySub} {
		for _, r := range m {
			out = append(out, r)
		}
	}
	return out
}
