package auth

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/forge"
)

// TestHostileTokens presents every hostile token to Verify and to the HTTP middleware, twice each: the second time it
// must not be in the cache. No part of a token may appear in a log, the audit log, an error or an answer.
func TestHostileTokens(t *testing.T) {
	t.Parallel()
	f := open(t)
	tokens := newForge(f).Hostile(t)
	if len(tokens) < 60 {
		t.Fatalf("only %d hostile tokens", len(tokens))
	}
	t.Logf("%d hostile tokens", len(tokens))
	reached := false
	api := f.Require(ScopeAny, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	for _, name := range names(tokens) {
		token := tokens[name]
		for range 2 {
			id, err := f.Verify([]byte(token), Peer{Address: "192.0.2.1:1"})
			if err == nil || !errors.Is(err, errUnauthorized) {
				t.Errorf("%s: accepted or wrong error: %v", name, err)
			}
			if id.Subject != "" || id.Role != "" {
				t.Errorf("%s: refusal carries an identity %+v", name, id)
			}
			if err != nil && strings.Contains(err.Error(), forge.Canary) {
				t.Errorf("%s: error quotes the token: %v", name, err)
			}
			rec := httptest.NewRecorder()
			req := httptest.NewRequest(http.MethodGet, "/v1/status", nil)
			req.Header["Authorization"] = []string{"Bearer " + token}
			api.ServeHTTP(rec, req)
			if rec.Code != http.StatusUnauthorized || strings.Contains(rec.Body.String(), forge.Canary) {
				t.Errorf("%s: HTTP %d %s", name, rec.Code, rec.Body)
			}
		}
	}
	if reached {
		t.Error("a hostile token reached a handler")
	}
	if f.cache.len() != 0 {
		t.Errorf("%d hostile tokens are cached", f.cache.len())
	}
	assertNoSecrets(t, f, names(tokens), tokens)
	if !strings.Contains(f.logs.String(), `"event":"refuse"`) {
		t.Error("no refusal in the audit log: the search for secrets proves nothing")
	}
}

// assertNoSecrets searches the logs for the canary, for the segments of the tokens and for the private key.
func assertNoSecrets(t *testing.T, f *fixture, order []string, tokens map[string]string) {
	t.Helper()
	logs := f.logs.String()
	if strings.Contains(logs, forge.Canary) || strings.Contains(logs, forge.B64([]byte(forge.Canary))[:14]) {
		t.Error("the canary is in the logs")
	}
	for _, name := range order {
		for segment := range strings.SplitSeq(tokens[name], ".") {
			if len(segment) > 40 && strings.Contains(logs, segment[:40]) {
				t.Errorf("%s: a segment is in the logs", name)
			}
		}
	}
	if strings.Contains(logs, "PRIVATE KEY") {
		t.Error("a private key is in the logs")
	}
}

// TestTokenOfARetiredKey presents a young token with a good signature of a known but retired key.
func TestTokenOfARetiredKey(t *testing.T) {
	t.Parallel()
	f := open(t)
	g := newForge(f) // signs with the first key
	_, err := f.Rotate(RotateRequest{})
	check.OK(t, err)
	f.clock.Add(24 * time.Hour)
	now := f.clock.Now().Unix()
	g.Claims = g.Claims.With("iat", now).With("exp", now+60)
	if _, err := f.Verify([]byte(g.Token()), Peer{}); !errors.Is(err, ErrKeyRetired) {
		t.Fatalf("got %v", err)
	}
}

// TestTokenOfAnotherCellWithTheSameKeys checks that two cells that share a key directory's content by mistake do not
// accept each other's tokens.
func TestTokenOfAnotherCellWithTheSameKeys(t *testing.T) {
	t.Parallel()
	f := open(t)
	other := open(t, func(c *Config) { c.Dir, c.Cell = f.dir, otherCell })
	if _, err := other.Verify([]byte(f.vehicle(t, testVIN)), Peer{}); !errors.Is(err, ErrBadToken) {
		t.Fatalf("got %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	fix := open(f)
	for _, token := range newForge(fix).Hostile(f) {
		if len(token) < 8<<10 {
			f.Add([]byte(token))
		}
	}
	good := fix.vehicle(f, testVIN)
	f.Fuzz(func(t *testing.T, token []byte) {
		id, err := fix.Verify(token, Peer{})
		if err == nil && string(token) != good {
			t.Fatalf("accepted %q as %+v", token, id)
		}
		if err != nil && !errors.Is(err, errUnauthorized) {
			t.Fatalf("refusal is not ErrUnauthorized: %v", err)
		}
	})
}

// FuzzParseObject checks that the strict parser accepts only what encoding/json accepts, and never two members of one
// name.
func FuzzParseObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"a":2}`, `{"a":{"b":[1,{"c":null}]}}`, `{"a":1}x`, `[]`, `{"a":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkParse(t, b)
	})
}
