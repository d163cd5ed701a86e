package message

import "strings"

// keySeparator separates the parts of a session key. It is not valid UTF-8, so no client identifier, role or issuer
// contains it.
const keySeparator = "\xff"

// SessionKey returns the key of a client's session. A vehicle's is its client identifier, which is its VIN. Other
// clients' keys also contain role and issuer: two issuers may assign the same name to different clients.
func SessionKey(clientID, role, issuer string) string {
	return clientID + keySeparator + role + keySeparator + issuer
}

// SplitSessionKey splits a session key; a vehicle's has neither role nor issuer.
func SplitSessionKey(key string) (clientID, role, issuer string) {
	clientID, rest, _ := strings.Cut(key, keySeparator)
	role, issuer, _ = strings.Cut(rest, keySeparator)
	return clientID, role, issuer
}

// clientRules is the session key of messages that rules publish. No client has it: an identifier is not empty.
const clientRules = keySeparator + "rules" + keySeparator

// ByRules marks a record as published by rules: subscribers get it, and no rule does.
func (r *Record) ByRules() { r.Client = clientRules }

// IsByRules reports whether rules published the record.
func (r *Record) IsByRules() bool { return r.Client == clientRules }
