package auth

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"strings"
	"time"
)

// Revoke puts a revocation into force. When it returns nil, the entry is on disk, Verify refuses the tokens that it
// names, and the watchers of live connections have been woken. It is then spread to the other gateways.
//
// Revoke sets ID, At and Until; for a Subject also a missing IssuedBefore, to the present time, and a missing Issuer,
// to the cell's own.
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
		return r, fmt.Errorf("%w: %d; revoke by issue time instead", errTooManyRevocations, a.cfg.MaxRevocations)
	}
	if err := a.revLog.append([]Revocation{r}); err != nil {
		return r, fmt.Errorf("auth: revocation not written to disk: %w", err)
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

// what describes for the audit log what subject and jti do not.
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

// revocationIDBytes is the length of an entry's ID, with 5 random bits per byte.
const revocationIDBytes = 12

// completeRevocation converts an entry into its stored form, with times rounded and in UTC, so that the same entry has
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
	// iat may be ahead by the leeway, and exp counts later by it.
	r.Until = last.Add(a.live().MaxTTL + 2*a.live().Leeway + time.Second)
	return nil
}

// pullRevocations reads new entries of the file, puts them into force, wakes the watchers and offers the entries to the
// other gateways. It returns how many were new. Entries that could be read are in force even if it returns an error.
//
// Reading and putting into force are one step under pullMu: when a call that follows an append returns, the entry is in
// force, whichever goroutine has read it.
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

// learn puts entries of other gateways into force, after writing them to disk.
func (a *Authority) learn(entries []Revocation) error {
	now, forget := a.cfg.Now(), a.mayForget()
	fresh := entries[:0]
	for _, r := range entries {
		if r.validate(now, a.live().Leeway) != nil || (forget && now.After(r.Until)) || r.Until.IsZero() {
			continue // from another version, or damaged: the store does not guarantee the form
		}
		if !a.revoked.has(&r) {
			fresh = append(fresh, r)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if a.revoked.len()+len(fresh) > a.cfg.MaxRevocations {
		return fmt.Errorf("%w: %d", errTooManyRevocations, a.cfg.MaxRevocations)
	}
	if err := a.revLog.append(fresh); err != nil {
		return err
	}
	_, err := a.pullRevocations()
	return err
}

// mayForget reports whether entries that are expired by date may be deleted. A token that only looked expired, because
// the wall clock was wrong, is valid again later. So everything is kept until the clock has been right for a token's
// whole lifetime: then all earlier tokens have expired.
func (a *Authority) mayForget() bool {
	return a.cfg.Trusted == nil || a.cfg.Trusted() >= a.live().MaxTTL+2*a.live().Leeway+dropGrace
}

// minCompact is the least number of superseded lines for which the file is rewritten.
const minCompact = 1000

// prune removes entries and keys that no valid token needs, from memory and, when it is worthwhile, from disk.
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
