package auth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Revocation ends tokens before their expiry. Exactly one form is set:
//
//   - TokenID: the one token with this jti;
//   - Subject and IssuedBefore: every token that an issuer gave a subject up to that second. If IssuedBefore is in the
//     future, the subject is locked out, and nothing is issued for it, until that time;
//   - IssuedBefore alone: every token of every subject and issuer up to that second, which must not be in the future.
//
// It is a value, and also the line format of the revocation file and of the store between gateways.
type Revocation struct {
	// ID distinguishes entries for the same subject and second. Revoke sets it.
	ID      string `json:"id,omitempty"`
	TokenID string `json:"jti,omitempty"`
	Subject string `json:"sub,omitempty"`
	// Issuer and Role restrict an entry with a Subject. Revoke sets an empty Issuer to the cell's own; entries of
	// earlier versions have none and apply to every issuer. An empty Role means every role.
	Issuer       string    `json:"iss,omitempty"`
	Role         Role      `json:"role,omitempty"`
	IssuedBefore time.Time `json:"issued_before,omitzero"`
	// Until is when all tokens of the entry have expired. Revoke sets it.
	Until time.Time `json:"until"`
	At    time.Time `json:"at"`
	// Reason and By are for the audit log.
	Reason string `json:"reason,omitempty"`
	By     string `json:"by,omitempty"`
	// Purge requests that the sessions and queued messages of Subject are deleted, too.
	Purge bool `json:"purge,omitempty"`
}

// Errors of Revoke.
var (
	// errInvalidRevocation means that a revocation names nothing, or too much.
	errInvalidRevocation = errors.New("invalid revocation")
	// errTooManyRevocations means that the list is full. One entry by issue time can replace many.
	errTooManyRevocations = errors.New("too many revocations in force")
)

// dropGrace is how much longer than needed an entry is kept, so that a clock that jumps ahead and back cannot revive a
// revoked token.
const dropGrace = 24 * time.Hour

// dropped reports whether the entry is no longer needed.
func (r *Revocation) dropped(now time.Time) bool { return now.After(r.Until.Add(dropGrace)) }

const maxReasonBytes = 256

// validate checks the form of an entry. now and slack bound times in the future.
func (r *Revocation) validate(now time.Time, slack time.Duration) error {
	fail := func(why string) error { return fmt.Errorf("%w: %s", errInvalidRevocation, why) }
	switch {
	case r.TokenID == "" && r.Subject == "" && r.IssuedBefore.IsZero():
		return fail("give a jti, a sub or an issue time")
	case r.TokenID != "" && (r.Subject != "" || !r.IssuedBefore.IsZero()):
		return fail("a jti cannot be combined with a sub or an issue time")
	case len(r.TokenID) > maxTokenIDBytes:
		return fail("jti is too long")
	case r.Subject != "" && ValidSubject(r.Subject) != nil:
		return fail("sub is not a valid subject")
	case r.Subject != "" && r.IssuedBefore.IsZero():
		return fail("a sub needs an issue time")
	case r.Subject == "" && r.TokenID == "" && r.IssuedBefore.After(now.Add(slack)):
		return fail("an issue time without a sub cannot be in the future: it would lock everyone out")
	case r.IssuedBefore.After(now.AddDate(100, 0, 0)):
		return fail("issue time is more than a hundred years in the future")
	case r.Purge && r.Subject == "":
		return fail("purge needs a sub")
	case r.Subject == "" && (r.Issuer != "" || r.Role != ""):
		return fail("iss and role need a sub")
	case len(r.Issuer) > maxReasonBytes || len(r.Role) > maxReasonBytes:
		return fail("iss or role is too long")
	case len(r.Reason) > maxReasonBytes || len(r.By) > maxReasonBytes:
		return fail("reason is too long")
	}
	return nil
}

// owner is whom a revocation by subject names. An empty field stands for all; if all are empty, it is everyone.
type owner struct {
	issuer  string
	role    Role
	subject string
}

// ownersOf lists the owners that match an identity.
func ownersOf(issuer string, role Role, subject string) [4]owner {
	return [...]owner{{issuer, role, subject}, {issuer, "", subject}, {"", "", subject}, {}}
}

// revocations is the set in force. Reads take a shared lock and do not allocate.
type revocations struct {
	mu      sync.RWMutex
	byToken map[string]Revocation
	bySub   map[owner]Revocation // the newest of each
}

func newRevocations() *revocations {
	return &revocations{byToken: make(map[string]Revocation), bySub: make(map[owner]Revocation)}
}

func (r *Revocation) owner() owner { return owner{r.Issuer, r.Role, r.Subject} }

// Names reports whether the entry is for a subject of an issuer in a role.
func (r *Revocation) Names(issuer string, role Role, subject string) bool {
	owners := ownersOf(issuer, role, subject)
	return slices.Contains(owners[:3], r.owner()) // the last is everyone
}

// newer orders entries of one owner, in the same way on every gateway.
func (r *Revocation) newer(old *Revocation) bool {
	switch {
	case !r.IssuedBefore.Equal(old.IssuedBefore):
		return r.IssuedBefore.After(old.IssuedBefore)
	case !r.At.Equal(old.At):
		return r.At.After(old.At)
	}
	return r.ID > old.ID
}

// add merges an entry and reports whether it is new.
func (s *revocations) add(r Revocation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hasLocked(&r) {
		return false
	}
	if r.TokenID != "" {
		s.byToken[r.TokenID] = r
	} else {
		s.bySub[r.owner()] = r
	}
	return true
}

// has reports whether add would return false.
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
	old, found := s.bySub[r.owner()]
	return found && !r.newer(&old)
}

// covers reports whether the entry revokes a token. Times are in whole seconds: a token of the revocation's own second
// is revoked, too. An entry without a time in the past also covers tokens dated up to slack later, since Verify accepts
// issuers' clocks that are ahead by as much; except tokens that this cell issued knowing the entry. An entry with a
// time in the past compares iat exactly.
func (r *Revocation) covers(id *Identity, slack time.Duration) bool {
	switch {
	case !id.IssuedAt.After(r.IssuedBefore):
		return true
	case r.IssuedBefore.Before(r.At.Truncate(time.Second)):
		return false
	}
	return !id.IssuedAt.After(r.IssuedBefore.Add(slack)) && !slices.Contains(id.IssuedAfter, r.ID)
}

func (s *revocations) revoked(id *Identity, slack time.Duration) bool {
	if id.Anonymous {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, found := s.byToken[id.TokenID]; found && id.TokenID != "" {
		return true
	}
	if len(s.bySub) == 0 {
		return false
	}
	for _, o := range ownersOf(id.Issuer, id.Role, id.Subject) {
		if r, found := s.bySub[o]; found && r.covers(id, slack) {
			return true
		}
	}
	return false
}

// issuable returns the earliest time, from now on, at which a token of an owner is not revoked, and the entries that
// the token must name because it is dated within slack of them.
func (s *revocations) issuable(o owner, now time.Time, slack time.Duration) (at time.Time, known []string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at = now
	owners := ownersOf(o.issuer, o.role, o.subject)
	for _, o := range owners {
		if r, found := s.bySub[o]; found && !at.After(r.IssuedBefore) {
			at = r.IssuedBefore.Add(time.Second)
		}
	}
	for _, o := range owners {
		if r, found := s.bySub[o]; found && r.ID != "" && !at.After(r.IssuedBefore.Add(slack)) {
			known = append(known, r.ID)
		}
	}
	return at, known
}

// prune removes the entries that are no longer needed, and returns how many.
func (s *revocations) prune(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.byToken) + len(s.bySub)
	maps.DeleteFunc(s.byToken, func(_ string, r Revocation) bool { return r.dropped(now) })
	maps.DeleteFunc(s.bySub, func(_ owner, r Revocation) bool { return r.dropped(now) })
	return before - len(s.byToken) - len(s.bySub)
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
	out := slices.AppendSeq(make([]Revocation, 0, len(s.byToken)+len(s.bySub)), maps.Values(s.byToken))
	return slices.AppendSeq(out, maps.Values(s.bySub))
}
