package configs

import (
	"fmt"
	"time"
)

// minHashKey is the minimum length of a key of the rules' function hash, in bytes. With a guessable key all VINs could
// be tried.
const minHashKey = 16

func (k *checker) hashKeys() {
	var before time.Time
	seen := map[string]bool{}
	for i := range k.cfg.Rules.HashKeys {
		key, path := &k.cfg.Rules.HashKeys[i], fmt.Sprintf("rules.hash_keys[%d]", i)
		if k.failed(path) {
			continue
		}
		from, err := time.Parse(time.RFC3339, key.From)
		if key.From == "" {
			err = nil // no start
		}
		switch {
		case !nameRE().MatchString(key.ID) || seen[key.ID]:
			k.problem(path+".id", fmt.Sprintf("%q is not a unique name", key.ID), "give each key a short name, such as k1: each hash begins with it")
		case len(key.Key.Reveal()) < minHashKey:
			k.problem(path+".key", "is too short", fmt.Sprintf("use %d bytes or more, for example of openssl rand -hex 32", minHashKey))
		case err != nil:
			k.problem(path+".from", fmt.Sprintf("%q is not a time", key.From), "write it as 2026-01-31T00:00:00Z")
		case i > 0 && !from.After(before):
			k.problem(path+".from", "is not after that of the key before", "order the keys by time: each is valid until the next")
		}
		seen[key.ID], before = true, from
	}
}
