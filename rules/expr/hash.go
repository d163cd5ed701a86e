package expr

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// HashKey is a key of the function hash. Messages that were received from a time on are hashed with it, so that a message has the
// same hash however late it is rendered or replayed, whatever keys have come since.
type HashKey struct {
	ID     string // stands in front of each hash
	From   time.Time
	Secret []byte
}

// HashKeys are in the order of their times.
type HashKeys []HashKey

// hashBytes of an HMAC-SHA256 are given: 128 bits, of which no two of a fleet's values share one.
const hashBytes = 16

// testKey hashes where no gateway is known: in tests of rules, which must not depend on a secret.
func testKey() HashKeys { return HashKeys{{ID: "test", Secret: []byte("the key of rules test")}} }

// hash is the function hash with its time, which is that of the message.
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
