package app

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"cellgate/auth"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
)

// peerKeys exchanges public keys with the cell's other gateways: each signs tokens with its own key, and all verify
// with all keys. Redis carries them and is not trusted: entries are authenticated with the join key.
type peerKeys struct {
	m    *member
	auth *auth.Authority
	join []byte
	cell string
	keep time.Duration // longer than the life of any token
	now  func() time.Time
	db   *statefile.DB
	log  *slog.Logger

	mu      sync.Mutex          // guards the fields below; exchange locks it
	version uint64              // of the last publication
	sent    []auth.PublicKey    // keys of the last publication
	held    map[string]heldKeys // by data_dir; also in the state file
}

// heldKeys are the keys of a gateway.
type heldKeys struct {
	Version uint64           `json:"version"` // rises with every change
	Node    string           `json:"node"`
	Keys    []auth.PublicKey `json:"keys"`
	Seen    time.Time        `json:"seen,omitzero"` // when Redis last had it; kept only here
}

// signed is an entry in Redis.
type signed struct {
	Body json.RawMessage `json:"body"` // heldKeys
	Sum  string          `json:"sum"`
}

var keyKeys = []byte("keys")

func openPeerKeys(t *trust) (*peerKeys, error) {
	join, err := joinKey(t.cfg)
	if err != nil {
		return nil, err
	}
	k := &peerKeys{
		m: t.member, auth: t.auth, join: join, cell: t.cfg.Cell.ID, db: t.db, log: t.log, held: map[string]heldKeys{}, now: t.clock.Wall,
		keep: t.cfg.Auth.MaxTokenTTL.Std() + 24*time.Hour, version: t.member.self.Boots << 20,
	}
	err = t.db.View(func(tx *statefile.Tx) error {
		if v := tx.Bucket(bucketCell).Get(keyKeys); v != nil {
			return json.Unmarshal(v, &k.held)
		}
		return nil
	})
	if err == nil {
		err = k.enforce()
	}
	if err != nil {
		return nil, fmt.Errorf("data_dir: state.db: the keys of the other gateways: %w", err)
	}
	return k, nil
}

// run exchanges keys until ctx ends. A new key is published before it signs (configs.KeyActivation).
func (k *peerKeys) run(ctx context.Context) {
	for logged := false; ; {
		if !k.m.allAway() {
			limit, cancel := context.WithTimeout(ctx, configs.CellTimeout)
			err := k.exchange(limit)
			cancel()
			if err != nil && !logged && ctx.Err() == nil {
				k.log.Warn("keys not exchanged with the other gateways", slog.Any("err", err))
			}
			logged = err != nil
		}
		if !remote.Pause(ctx, configs.CellBeat/2) {
			return
		}
	}
}

func (k *peerKeys) exchange(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	all, err := k.m.store.Published(ctx)
	if err != nil {
		return err
	}
	if err := k.publish(ctx, all); err != nil {
		return err
	}
	changed, now := false, k.now()
	for dir, text := range all {
		if dir == k.m.self.Dir {
			continue
		}
		got, ok := k.verified(dir, text)
		if before, held := k.held[dir]; ok && (!held || got.Version >= before.Version) {
			changed = changed || !held || got.Version > before.Version || now.Sub(before.Seen) > time.Hour
			got.Seen = now
			if !changed {
				got.Seen = before.Seen
			}
			k.held[dir] = got
		}
	}
	for dir, one := range k.held {
		if now.Sub(one.Seen) > k.keep { // all tokens that it signed have expired
			delete(k.held, dir)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	if err := k.store(); err != nil {
		return err
	}
	return k.enforce()
}

// publish writes this gateway's keys to Redis when they have changed or are missing there.
func (k *peerKeys) publish(ctx context.Context, all map[string]string) error {
	keys, err := k.auth.PublicKeys()
	if err != nil {
		return err
	}
	if _, there := k.verified(k.m.self.Dir, all[k.m.self.Dir]); there && reflect.DeepEqual(keys, k.sent) {
		return nil
	}
	k.version++
	body, err := json.Marshal(heldKeys{Version: k.version, Node: k.m.self.Node, Keys: keys})
	if err != nil {
		return err
	}
	text, err := json.Marshal(signed{Body: body, Sum: k.sum(k.m.self.Dir, body)})
	if err == nil {
		err = k.m.store.Publish(ctx, k.m.self.Dir, text)
	}
	if err == nil {
		k.sent = keys
	}
	return err
}

func (k *peerKeys) sum(dir string, body []byte) string {
	h := hmac.New(sha256.New, k.join)
	_, _ = fmt.Fprintf(h, "cellgate public keys\x00%s\x00%s\x00", k.cell, dir)
	_, _ = h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// verified decodes an entry that was written by a gateway with the join key. It returns false for any other.
func (k *peerKeys) verified(dir, text string) (heldKeys, bool) {
	var s signed
	var h heldKeys
	if json.Unmarshal([]byte(text), &s) != nil || !hmac.Equal([]byte(s.Sum), []byte(k.sum(dir, s.Body))) {
		return h, false
	}
	return h, json.Unmarshal(s.Body, &h) == nil
}

func (k *peerKeys) enforce() error {
	var all []auth.PublicKey
	for _, one := range k.held {
		all = append(all, one.Keys...)
	}
	return k.auth.SetPeers(all)
}

func (k *peerKeys) store() error {
	data, err := json.Marshal(k.held)
	if err != nil {
		return err
	}
	return k.db.Update(func(tx *statefile.Tx) error { return tx.Bucket(bucketCell).Put(keyKeys, data) })
}
