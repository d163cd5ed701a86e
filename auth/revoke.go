package auth

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"strings"
	"time"
)

// Revoke puts a revocation into force: when it returns nil, the entry is on disk, Verify refuses what it
// names, and the watchers of live connections have been woken. It is then spread to the other gateways.
//
// ID, At and Until are filled in, and for a sub a missing IssuedBefore, with the present time, and a missing Issuer,
// with the cell's own.
func (a *Authority) Revoke(r Revocation, by Caller) (Revocation, error) {
	now := a.cfg.Now()
	r.By = by.By
	if r.Subject != "" {
		r.Issuer = cmp.Or(r.Issuer, a.cfg.Issuer)
		if r.IssuedBefore.IsZero() {
			r.IssuedBefore = now
		}
	}
	if err := a.completeRevocation(&r, now); err != nil {
		return r, err
	}
	if a.revoked.len() >= a.cfg.MaxRevocations {
		return r, fmt.Errorf("%w: %d; revoke by issue time instead", ErrTooManyRevocations, a.cfg.MaxRevocations)
	}
	if err := a.revLog.append([]Revocation{r}); err != nil {
		return r, fmt.Errorf("auth: revocation is not safe on disk: %w", err)
	}
	if _, err := a.pullRevocations(); err != nil {
		return r, fmt.Errorf("auth: %w", err)
	}
	a.cfg.Audit.Write(AuditEvent{
		At: now, Event: AuditRevoke, Subject: r.Subject, Role: r.Role, Issuer: r.Issuer, TokenID: r.TokenID, What: r.what(), Reason: r.Reason,
		Caller: by,
	})
	return r, nil
}

// what says for the audit log what of an entry its subject and jti do not.
func (r *Revocation) what() string {
	var b []string
	if !r.IssuedBefore.IsZero() {
		b = append(b, "tokens issued up to "+r.IssuedBefore.Format(time.RFC3339))
	}
	if r.Purge {
		b = append(b, "purge")
	}
	return strings.Join(b, ", ")
}

// revocationIDBytes is the length of an entry's ID, of 5 random bits a byte.
const revocationIDBytes = 12

// completeRevocation brings an entry into its stored form: times rounded and in UTC, so that the same entry has
// the same bytes everywhere.
func (a *Authority) completeRevocation(r *Revocation, now time.Time) error {
	if err := r.validate(now, a.live().Leeway); err != nil {
		return err
	}
	if !r.IssuedBefore.IsZero() {
		r.IssuedBefore = r.IssuedBefore.UTC().Truncate(time.Second)
	}
	r.ID = rand.Text()[:revocationIDBytes]
	r.At = now.UTC().Truncate(time.Millisecond)
	last := r.At // no token was issued later
	if r.IssuedBefore.After(last) || r.TokenID == "" {
		last = r.IssuedBefore
	}
	// iat may be ahead by the leeway, exp counts later by it.
	r.Until = last.Add(a.live().MaxTTL + 2*a.live().Leeway + time.Second)
	return nil
}

// pullRevocations reads what is new in the file, puts it into force, wakes the watchers and offers it to
// the other gateways. It returns how many entries said something new. What could be read is in force
// even when it returns an error.
//
// Reading and putting into force are one step under pullMu: whoever calls it after an append finds the entry
// in force when it returns, whichever goroutine read it.
func (a *Authority) pullRevocations() (int, error) {
	a.pullMu.Lock()
	defer a.pullMu.Unlock()
	entries, err := a.revLog.read()
	now, forget := a.cfg.Now(), a.mayForget()
	var purges []Revocation
	fresh := make([]Revocation, 0, len(entries))
	for _, r := range entries {
		if (forget && r.dropped(now)) || !a.revoked.add(r) {
			continue
		}
		fresh = append(fresh, r)
		if r.Purge {
			purges = append(purges, r)
		}
	}
	if len(fresh) > 0 {
		a.cfg.Metrics.revocations.Set(float64(a.revoked.len()))
		a.watchers.notify(purges)
		a.spread.offer(fresh)
	}
	return len(fresh), err
}

// learn puts entries of other gateways into force, on disk first.
func (a *Authority) learn(entries []Revocation) error {
	now, forget := a.cfg.Now(), a.mayForget()
	fresh := entries[:0]
	for _, r := range entries {
		if r.validate(now, a.live().Leeway) != nil || (forget && now.After(r.Until)) || r.Until.IsZero() {
			continue // another version's, or damaged: the store is not an authority over form
		}
		if !a.revoked.has(&r) {
			fresh = append(fresh, r)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if a.revoked.len()+len(fresh) > a.cfg.MaxRevocations {
		return fmt.Errorf("%w: %d", ErrTooManyRevocations, a.cfg.MaxRevocations)
	}
	if err := a.revLog.append(fresh); err != nil {
		return err
	}
	_, err := a.pullRevocations()
	return err
}

// mayForget says whether what calendar time has made useless may be deleted. When the wall clock was wrong for a while, a
// token that it made look expired is valid again. So all is kept until the clock has been right for a token's whole life:
// then every token of before has expired, whatever the clock showed.
func (a *Authority) mayForget() bool {
	return a.cfg.Trusted == nil || a.cfg.Trusted() >= a.live().MaxTTL+2*a.live().Leeway+dropGrace
}

// minCompact is how many superseded lines the file holds at least before it is written anew.
const minCompact = 1000

// prune drops what no valid token can meet any more, from memory and, once it is worth it, from disk.
func (a *Authority) prune() {
	if !a.mayForget() {
		return
	}
	now := a.cfg.Now()
	if a.revoked.prune(now) > 0 {
		a.cfg.Metrics.revocations.Set(float64(a.revoked.len()))
	}
	a.pruneKeys(now)
	if live := a.revoked.len(); a.revLog.superseded(live) > max(minCompact, live) {
		if err := a.compactRevocations(now); err != nil {
			a.cfg.Log.Warn("revocation log not compacted", "err", err)
		}
	}
}

func (a *Authority) compactRevocations(now time.Time) error {
	return a.revLog.compact(func(entries []Revocation) []Revocation {
		set := newRevocations()
		for _, r := range entries {
			if !r.dropped(now) {
				set.add(r)
			}
		}
		return set.all()
	})
}

// Revocations returns the entries in force, in no order.
func (a *Authority) Revocations() []Revocation { return a.revoked.all() }
