package auth

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// KeyInfo describes one of the cell's own keys, without the key.
type KeyInfo struct {
	KID         string    `json:"kid"`
	Alg         string    `json:"alg"`
	Created     time.Time `json:"created"`
	SignFrom    time.Time `json:"sign_from"`
	VerifyUntil time.Time `json:"verify_until,omitzero"` // zero: until a newer key is made
	Signing     bool      `json:"signing"`
}

// RotateRequest asks for a new signing key.
type RotateRequest struct {
	// Algorithm of the new key; Config.Algorithm if empty.
	Algorithm string
	// Keep is how long the old keys verify after the new key's first signature; Config.TTL if 0. Set it to the lifetime
	// of the longest token that must outlast the rotation. The leeway is added.
	Keep time.Duration
	Caller
}

// Rotate adds a signing key. The key is published at once and signs after Config.KeyActivation. By default the older
// keys verify until every token that they signed with Config.TTL has expired. The new key is on disk before the old
// ones get their end, so a crash in between leaves one key too many, never none.
func (a *Authority) Rotate(req RotateRequest) (KeyInfo, error) {
	now := a.cfg.Now()
	req.Algorithm, req.Keep = cmp.Or(req.Algorithm, a.live().Algorithm), cmp.Or(req.Keep, a.live().TTL)
	if req.Keep < 0 {
		return KeyInfo{}, errors.New("auth: rotate: keep is negative")
	}
	k, err := newSignKey(req.Algorithm, now, now.Add(a.live().KeyActivation+time.Second))
	if err != nil {
		return KeyInfo{}, fmt.Errorf("auth: rotate: %w", err)
	}
	if err := a.rotateFiles(k, req.Keep); err != nil {
		return KeyInfo{}, fmt.Errorf("auth: rotate: %w", err)
	}
	if err := a.reloadKeys(); err != nil {
		return KeyInfo{}, fmt.Errorf("auth: rotate: %w", err)
	}
	a.cfg.Audit.Write(AuditEvent{
		At: now, Event: AuditRotate, KeyID: k.file.KID, Caller: req.Caller,
	})
	return k.info(false), nil
}

// rotateFiles writes the new key, then the end of the older ones.
func (a *Authority) rotateFiles(k *signKey, keep time.Duration) error {
	unlock, err := lockDir(a.cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := loadKeys(a.cfg.Dir, a.own)
	if err != nil {
		return err
	}
	if err := k.save(a.cfg.Dir); err != nil {
		return err
	}
	// A process that reads the new key late continues to sign with the old one for as long.
	until := k.file.SignFrom.Add(keep + a.live().Leeway + a.live().KeyActivation + time.Second)
	for _, o := range old {
		if o.file.VerifyUntil != nil {
			continue
		}
		o.file.VerifyUntil = &until
		if err := o.save(a.cfg.Dir); err != nil {
			return err
		}
	}
	return nil
}

// pruneKeys deletes the files of keys that have been retired for longer than dropGrace, so that a jump of the clock
// cannot require them again.
func (a *Authority) pruneKeys(now time.Time) {
	for _, k := range a.ring.Load().own {
		if !k.held().retired(now.Add(-dropGrace)) {
			continue
		}
		err := os.Remove(keyPath(a.cfg.Dir, k.file.KID))
		switch {
		case err == nil:
			a.cfg.Log.Info("retired signing key deleted", "kid", k.file.KID)
		case !errors.Is(err, fs.ErrNotExist):
			a.cfg.Log.Warn("retired signing key not deleted", "kid", k.file.KID, "err", err)
		}
	}
}

// Keys lists the cell's own keys, oldest first.
func (a *Authority) Keys() []KeyInfo {
	ring := a.ring.Load()
	signing := ring.signer(a.cfg.Now())
	out := make([]KeyInfo, len(ring.own))
	for i, k := range ring.own {
		out[i] = k.info(k == signing)
	}
	return out
}

func (k *signKey) info(signing bool) KeyInfo {
	i := KeyInfo{
		KID: k.file.KID, Alg: k.file.Alg, Created: k.file.Created, SignFrom: k.file.SignFrom, Signing: signing,
	}
	if k.file.VerifyUntil != nil {
		i.VerifyUntil = *k.file.VerifyUntil
	}
	return i
}
