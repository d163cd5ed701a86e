package expr

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// HashKey is a key of the function hash. It applies to messages received from a time on, so that a message has the same
// hash whenever it is rendered or replayed, whatever keys were added since.
type HashKey struct {
	ID     string // prefix of each hash
	From   time.Time
	Secret []byte
}

// HashKeys are sorted by time.
type HashKeys []HashKey

// hashBytes is the number of bytes of the HMAC-SHA256 in a hash: 128 bits, enough to avoid collisions between the
// values of a fleet.
const hashBytes = 16

// testKey returns the key used without a gateway: tests of rules must not depend on a secret.
func testKey() HashKeys { return HashKeys{{ID: "test", Secret: []byte("the key of rules test")}} }

// hash implements the function hash; at is the message's time.
func (k HashKeys) hash(v, at any) any {
	t, ok := at.(time.Time)
	if v == nil || !ok {
		return nil
	}
	for i := len(k) - 1; i >= 0; i-- {
		if !t.Before(k[i].From) {
			mac := hmac.New(sha256.New, k[i].Secret)
			mac.Write(AppendText(nil, v))
			return k[i].ID + "." + hex.EncodeToString(mac.Sum(nil)[:hashBytes])
		}
	}
	fail("hash has no key for the time of this message: rules.hash_keys of the configuration has only later ones")
	return nil
}
