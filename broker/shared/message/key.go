package message

import "strings"

// keySeparator stands in a session key. It is no part of UTF-8, so no client identifier, role or issuer holds it.
const keySeparator = "\xff"

// SessionKey names the session of a client. A vehicle's is its client identifier, which is its VIN. Anyone else's also
// holds role and issuer: two issuers may give out the same name, and it is not the same client.
func SessionKey(clientID, role, issuer string) string {
	return clientID + keySeparator + role + keySeparator + issuer
}

// SplitSessionKey takes a session key apart; a vehicle's has neither role nor issuer.
func SplitSessionKey(key string) (clientID, role, issuer string) {
	clientID, rest, _ := strings.Cut(key, keySeparator)
	role, issuer, _ = strings.Cut(rest, keySeparator)
	return clientID, role, issuer
}

// clientRules is the session key of what the rules publish. No client has it: an identifier is not empty.
const clientRules = keySeparator + "rules" + keySeparator

// ByRules makes a record one that the rules publish: subscribers get it, and no rule does.
func (r *Record) ByRules() { r.Client = clientRules }

// IsByRules reports whether the rules have published the record.
func (r *Record) IsByRules() bool { return r.Client == clientRules }
