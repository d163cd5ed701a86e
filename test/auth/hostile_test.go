package authtest

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/forge"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

func forgeOf(t testing.TB, g *harness.Gateway) *forge.Forge {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(g.Dir, "data", "auth", "key-*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("key files %v, %v", files, err)
	}
	b := check.Read(t, files[0])
	var file struct {
		KID        string `json:"kid"`
		Alg        string `json:"alg"`
		PrivateKey string `json:"private_key"`
	}
	check.OK(t, json.Unmarshal(b, &file))
	block, _ := pem.Decode([]byte(file.PrivateKey))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	check.OK(t, err)
	f := &forge.Forge{
		Key: key.(crypto.Signer), KID: file.KID, Alg: file.Alg, KeyPath: files[0],
		Cell: cellID, OtherCell: "cell-test-02", VIN: vinA, OtherVIN: vinB, Now: time.Now(),
	}
	return f.Init()
}

// maxPassword is the longest CONNECT field (MQTT 1.5.4).
const maxPassword = 65_535

// TestHostileTokens sends every hostile token to a running gateway: in CONNECT on both versions, as authentication
// data, as a refresh on a live connection, and to the HTTP API. None may be accepted, and no part of one may be in a
// log.
func TestHostileTokens(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t, harness.Options{NoRules: true, Extra: quick})
	f := forgeOf(t, g)
	if _, code := open(t, g.MQTT, connect{id: vinA, password: f.Token(), version: 5}); code != 0 {
		t.Fatalf("the forge's good token: 0x%02x: the others would be refused for the wrong reason", code)
	}
	tokens := f.Hostile(t)
	good := issuerOf(t, g).vehicle(vinB)
	live := mustOpen(t, g.MQTT, connect{id: vinB, password: good, version: 5})
	presented := 0
	for _, name := range slices.Sorted(maps.Keys(tokens)) {
		token := tokens[name]
		if len(token) <= maxPassword {
			presented += presentToken(t, g, name, token)
		}
		code, err := publish(live, mqtt.Publish{Topic: "v1/" + vinB + "/token", Payload: token, QoS: 1})
		if len(token) < 200<<10 { // beyond limits.max_packet the connection ends
			if err != nil || code != reasonNotAuthorized {
				t.Errorf("%s as refresh: 0x%02x, %v", name, code, err)
			}
		} else {
			live = mustOpen(t, g.MQTT, connect{id: vinB, password: good, version: 5})
		}
		presented++
	}
	if len(tokens) < 60 || presented < 5*60 {
		t.Fatalf("only %d tokens, presented %d times", len(tokens), presented)
	}
	if !alive(live) {
		t.Error("a refused refresh ended the connection")
	}
	for _, r := range records(t, g) {
		if strings.HasSuffix(r.Topic, "/token") {
			t.Errorf("a token is in the journal, on %s", r.Topic)
		}
	}
	awaitAudit(t, g, `"event":"refuse"`, `"reason":"bad-token"`, `"from":"127.0.0.1:`)
	awaitAudit(t, g, `"event":"refuse"`, `"suppressed":`) // sampled, since there are many
	searchSecrets(t, g, append(slices.Collect(maps.Values(tokens)), good)...)
	t.Logf("%d hostile tokens, presented %d times", len(tokens), presented)
}

// presentToken presents a token in every way open to an unauthenticated client.
func presentToken(t *testing.T, g *harness.Gateway, name, token string) (n int) {
	for _, c := range []connect{
		{id: vinA, user: vinA, password: token, version: 4},
		{id: vinA, user: vinA, password: token, version: 5},
		{id: vinA, password: token, version: 5, method: "CELL-JWT"},
	} {
		m, ack := tryOpen(t, g.MQTT, c)
		// A CONNECT of 3.1.1 over limits.max_connect_packet gets no answer.
		if ack.Type == 0 && len(token) < 16<<10-200 || ack.Type != 0 && ack.Reason == 0 {
			t.Errorf("%s on %d %s: %v", name, c.version, c.method, ack)
		}
		leave(m)
		n++
	}
	if strings.ContainsAny(token, "\x00\n") || len(token) > 16<<10 {
		return n // net/http sends no such header
	}
	status, body, err := g.Get("/v1/status", token)
	if err != nil || status != 401 || strings.Contains(string(body), forge.Canary) {
		t.Errorf("%s over HTTP: %d %s, %v", name, status, body, err)
	}
	return n + 1
}

// searchSecrets searches everything that a gateway has logged for the canary, segments of tokens and private keys.
func searchSecrets(t *testing.T, g *harness.Gateway, tokens ...string) {
	t.Helper()
	all := logs(t, g)
	for _, secret := range []string{forge.Canary, forge.B64([]byte(forge.Canary))[:14], "PRIVATE KEY"} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is in a log", secret)
		}
	}
	for _, token := range tokens {
		for segment := range strings.SplitSeq(token, ".") {
			if len(segment) > 40 && strings.Contains(all, segment[:40]) {
				t.Error("a segment of a token is in a log")
			}
		}
	}
}
