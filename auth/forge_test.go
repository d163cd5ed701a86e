package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// The forge builds tokens by hand: nothing of it goes through the library or the parser that verifies them.

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// obj is a JSON object whose members keep their order and may repeat.
type obj []member

type member struct {
	name  string
	value any // raw is written as it is
}

type raw string

func (o obj) json() string {
	parts := make([]string, len(o))
	for i, m := range o {
		value, ok := m.value.(raw)
		if !ok {
			b, err := json.Marshal(m.value)
			if err != nil {
				panic(err)
			}
			value = raw(b)
		}
		parts[i] = fmt.Sprintf("%q:%s", m.name, value)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// with returns a copy with a member replaced, or added.
func (o obj) with(name string, value any) obj {
	c := slices.Clone(o)
	for i := range c {
		if c[i].name == name {
			c[i].value = value
			return c
		}
	}
	return append(c, member{name, value})
}

func (o obj) without(name string) obj {
	return slices.DeleteFunc(slices.Clone(o), func(m member) bool { return m.name == name })
}

// plus adds a member even if there is one of that name.
func (o obj) plus(name string, value any) obj { return append(slices.Clone(o), member{name, value}) }

// forge knows the authority's own key, so that all it makes but what it spoils on purpose is genuine.
type forge struct {
	f      *fixture
	key    *signKey
	header obj
	claims obj
}

func newForge(f *fixture) *forge {
	key := f.ring.Load().own[0]
	now := f.clock.Now().Unix()
	return &forge{
		f: f, key: key,
		header: obj{{"alg", key.file.Alg}, {"kid", key.file.KID}, {"typ", "JWT"}},
		claims: obj{
			{"iss", "cellgate/" + testCell},
			{"aud", testCell},
			{"sub", testVIN},
			{"role", "vehicle"},
			{"iat", now},
			{"exp", now + 3600},
			{"jti", "forged-1"},
		},
	}
}

// sign makes a compact JWS of two texts with the authority's key.
func (g *forge) sign(header, claims string) string {
	input := b64([]byte(header)) + "." + b64([]byte(claims))
	return input + "." + b64(signBytes(g.key.private, []byte(input)))
}

func (g *forge) token() string { return g.sign(g.header.json(), g.claims.json()) }

// signBytes signs as RFC 7518 says: r and s of 32 bytes each for ES256.
func signBytes(key crypto.Signer, input []byte) []byte {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
		if err != nil {
			panic(err)
		}
		out := make([]byte, 64)
		r.FillBytes(out[:32])
		s.FillBytes(out[32:])
		return out
	case ed25519.PrivateKey:
		return ed25519.Sign(k, input)
	case *rsa.PrivateKey:
		sum := sha256.Sum256(input)
		out, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
		if err != nil {
			panic(err)
		}
		return out
	}
	panic("unknown key")
}

func hs256(key, input []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(input)
	return m.Sum(nil)
}

func TestForgeMakesGoodTokens(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{ES256, EdDSA} {
		f := open(t, func(c *Config) { c.Algorithm = alg })
		g := newForge(f)
		if _, err := f.Verify([]byte(g.token()), Peer{}); err != nil {
			t.Fatalf("%s: %v: the hostile tokens would be refused for the wrong reason", alg, err)
		}
		g.claims = g.claims.with("aud", []string{"elsewhere", testCell}).with("nbf", f.clock.Now().Unix()).with("x", "unknown")
		if _, err := f.Verify([]byte(g.token()), Peer{}); err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
	}
}

// canary is in every hostile token, wherever the attacker can put text.
const canary = "CANARY-7f3a91"

// hostile returns tokens that must be refused, by name.
func hostile(t testing.TB, f *fixture) map[string]string {
	t.Helper()
	g := newForge(f)
	g.claims = g.claims.plus("note", canary)
	all := make(map[string]string)
	for _, part := range []map[string]string{
		hostileHeaders(t, g), hostileSignatures(t, g), hostileForms(g), hostileClaims(g), hostileTimes(g), hostileJSON(g),
	} {
		for name, token := range part {
			if _, dup := all[name]; dup {
				t.Fatalf("two hostile tokens are called %q", name)
			}
			all[name] = token
		}
	}
	return all
}

func hostileHeaders(t testing.TB, g *forge) map[string]string {
	h, c := g.header, g.claims.json()
	sign := func(header obj) string { return g.sign(header.json(), c) }
	publicDER := publicBytes(t, g.key.private.Public())
	hmacSigned := func(key []byte, kid any) string {
		input := b64([]byte(h.with("alg", "HS256").with("kid", kid).json())) + "." + b64([]byte(c))
		return input + "." + b64(hs256(key, []byte(input)))
	}
	attacker, err := encodePublic(newAttackerKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{
		"alg none":                   sign(h.with("alg", "none")),
		"alg None":                   sign(h.with("alg", "None")),
		"alg nOnE":                   sign(h.with("alg", "nOnE")),
		"alg empty":                  sign(h.with("alg", "")),
		"alg missing":                sign(h.without("alg")),
		"alg null":                   sign(h.with("alg", nil)),
		"alg number":                 sign(h.with("alg", 256)),
		"alg list":                   sign(h.with("alg", []string{"ES256"})),
		"alg lower case":             sign(h.with("alg", "es256")),
		"alg of another key type":    sign(h.with("alg", "EdDSA")),
		"alg RS256":                  sign(h.with("alg", "RS256")),
		"alg ES384":                  sign(h.with("alg", "ES384")),
		"HS256 with the public key":  hmacSigned(publicDER, g.key.file.KID),
		"HS256 with the kid":         hmacSigned([]byte(g.key.file.KID), g.key.file.KID),
		"HS256 with an empty key":    hmacSigned(nil, g.key.file.KID),
		"HS256 with kid /dev/null":   hmacSigned(nil, "/dev/null"),
		"kid missing":                sign(h.without("kid")),
		"kid empty":                  sign(h.with("kid", "")),
		"kid null":                   sign(h.with("kid", nil)),
		"kid unknown":                sign(h.with("kid", canary)),
		"kid path":                   sign(h.with("kid", "../"+g.key.file.KID)),
		"kid file":                   sign(h.with("kid", "key-"+g.key.file.KID+".json")),
		"kid absolute path":          sign(h.with("kid", keyPath(g.f.dir, g.key.file.KID))),
		"kid SQL":                    sign(h.with("kid", "x' UNION SELECT '"+canary)),
		"kid with a NUL":             sign(h.with("kid", g.key.file.KID+"\x00")),
		"kid in other case":          sign(h.with("kid", strings.ToUpper(g.key.file.KID))),
		"kid number":                 sign(h.with("kid", 1)),
		"kid URL":                    sign(h.with("kid", "http://127.0.0.1/"+canary)),
		"typ missing":                sign(h.without("typ")),
		"typ at+jwt":                 sign(h.with("typ", "at+jwt")),
		"typ lower case":             sign(h.with("typ", "jwt")),
		"typ JOSE":                   sign(h.with("typ", "JOSE")),
		"typ null":                   sign(h.with("typ", nil)),
		"crit":                       sign(h.with("crit", []string{"exp"})),
		"crit empty":                 sign(h.with("crit", []string{})),
		"crit null":                  sign(h.with("crit", nil)),
		"b64 false":                  sign(h.with("b64", false)),
		"jku":                        sign(h.with("jku", "https://attacker.example/"+canary)),
		"x5u":                        sign(h.with("x5u", "https://attacker.example/"+canary)),
		"x5c":                        sign(h.with("x5c", []string{b64(publicDER)})),
		"jwk of the attacker":        sign(h.with("jwk", attacker)),
		"zip":                        sign(h.with("zip", "DEF")),
		"enc":                        sign(h.with("enc", "A256GCM")),
		"cty nested":                 sign(h.with("cty", "JWT")),
		"duplicate alg":              sign(h.plus("alg", "none")),
		"duplicate kid":              sign(h.plus("kid", canary)),
		"duplicate typ":              sign(h.plus("typ", "JWT")),
		"header is a list":           g.sign(`["alg","ES256"]`, c),
		"header is a string":         g.sign(`"`+canary+`"`, c),
		"header is null":             g.sign(`null`, c),
		"header is not JSON":         g.sign(canary, c),
		"header with trailing bytes": g.sign(h.json()+"{}", c),
		"header too deep":            sign(h.with("x", raw(strings.Repeat("[", 50)+strings.Repeat("]", 50)))),
		"header not UTF-8":           g.sign(h.with("x", raw("\"\xff\xfe\"")).json(), c),
		"header member in upper case": sign(obj{
			{"ALG", g.key.file.Alg}, {"KID", g.key.file.KID}, {"TYP", "JWT"},
		}),
	}
	return out
}

func hostileSignatures(t testing.TB, g *forge) map[string]string {
	good := g.token()
	head, claims, sig, _ := splitToken(good)
	input := []byte(head + "." + claims)
	der, err := ecdsa.SignASN1(rand.Reader, g.key.private.(*ecdsa.PrivateKey), digest(input))
	if err != nil {
		t.Fatal(err)
	}
	flipped, _ := base64.RawURLEncoding.DecodeString(sig)
	flipped[10] ^= 1
	swapped := signBytes(g.key.private, input)
	swapped = append(slices.Clone(swapped[32:]), swapped[:32]...)
	other := g.sign(g.header.json(), g.claims.with("jti", "another").json())
	_, _, otherSig, _ := splitToken(other)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	with := func(s []byte) string { return string(input) + "." + b64(s) }
	return map[string]string{
		"signature empty":               string(input) + ".",
		"signature of zeros":            with(make([]byte, 64)), // CVE-2022-21449
		"signature of ones":             with([]byte(strings.Repeat("\xff", 64))),
		"signature short":               with(flipped[:63]),
		"signature long":                with(append(slices.Clone(flipped), 0)),
		"signature with a bit flipped":  with(flipped),
		"signature with r and s swept":  with(swapped),
		"signature in ASN.1":            with(der),
		"signature of another token":    string(input) + "." + otherSig,
		"signature by another key":      with(signBytes(newAttackerKey(t), input)),
		"signature by RSA":              with(signBytes(rsaKey, input)),
		"signature over other claims":   head + "." + b64([]byte(g.claims.with("sub", otherVIN).json())) + "." + sig,
		"signature over another header": b64([]byte(g.header.with("x", 1).json())) + "." + claims + "." + sig,
		"signature is the text canary":  string(input) + "." + canary,
	}
}

func hostileForms(g *forge) map[string]string {
	good := g.token()
	head, claims, sig, _ := splitToken(good)
	// A spelling of the last character with stray bits set: lenient decoders read the same bytes.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	stray := sig[:len(sig)-1] + string(alphabet[strings.IndexByte(alphabet, sig[len(sig)-1])|1])
	if stray == sig {
		stray = sig[:len(sig)-1] + string(alphabet[strings.IndexByte(alphabet, sig[len(sig)-1])|2])
	}
	out := map[string]string{
		"not a token":            canary,
		"one dot":                head + "." + claims,
		"dots only":              "..",
		"empty header":           "." + claims + "." + sig,
		"empty claims":           head + ".." + sig,
		"four segments":          good + "." + canary,
		"five segments, as JWE":  head + "." + claims + "." + sig + "." + sig + "." + sig,
		"JWS JSON form":          obj{{"protected", head}, {"payload", claims}, {"signature", sig}}.json(),
		"trailing newline":       good + "\n",
		"leading space":          " " + good,
		"newline inside":         head + "." + claims[:10] + "\n" + claims[10:] + "." + sig,
		"padded":                 head + "." + claims + "." + sig + "==",
		"standard alphabet":      head + "." + claims + "." + strings.NewReplacer("-", "+", "_", "/").Replace("-_"+sig),
		"stray bits":             head + "." + claims + "." + stray,
		"bearer prefix":          "Bearer " + good,
		"quoted":                 `"` + good + `"`,
		"NUL inside":             good[:20] + "\x00" + good[20:],
		"huge":                   good + strings.Repeat("A", 1<<20),
		"huge claims, signed":    g.sign(g.header.json(), g.claims.with("x", strings.Repeat(canary, 1000)).json()),
		"nested token as claims": g.sign(g.header.json(), good),
		"many dots":              strings.Repeat(".", 4000),
	}
	return out
}

func hostileClaims(g *forge) map[string]string {
	c := g.claims
	sign := func(claims obj) string { return g.sign(g.header.json(), claims.json()) }
	out := map[string]string{
		"aud of another cell":         sign(c.with("aud", otherCell)),
		"aud list of others":          sign(c.with("aud", []string{otherCell, canary})),
		"aud list with a number":      sign(c.with("aud", []any{testCell, 1})),
		"aud list too long":           sign(c.with("aud", slices.Repeat([]string{testCell}, 17))),
		"aud prefix":                  sign(c.with("aud", testCell+"-x")),
		"aud object":                  sign(c.with("aud", map[string]string{"x": testCell})),
		"iss of another cell":         sign(c.with("iss", "cellgate/"+otherCell)),
		"iss list":                    sign(c.with("iss", []string{"cellgate/" + testCell})),
		"sub empty":                   sign(c.with("sub", "")),
		"sub number":                  sign(c.with("sub", 1)),
		"sub wildcard +":              sign(c.with("sub", "+")),
		"sub wildcard #":              sign(c.with("sub", "#")),
		"sub with a level":            sign(c.with("sub", testVIN+"/up/#")),
		"sub with a newline":          sign(c.with("sub", testVIN+"\n"+canary)),
		"sub with a NUL":              sign(c.with("sub", testVIN+"\x00")),
		"sub with a bidi override":    sign(c.with("sub", "\u202e"+testVIN)),
		"sub with a lone surrogate":   sign(c.with("sub", raw(`"\ud800`+canary+`"`))),
		"sub $SYS":                    sign(c.with("sub", "$SYS")),
		"sub too long":                sign(c.with("sub", strings.Repeat("A", 129))),
		"role empty":                  sign(c.with("role", "")),
		"role unknown":                sign(c.with("role", canary)),
		"role in upper case":          sign(c.with("role", "Operator")),
		"role list":                   sign(c.with("role", []string{"vehicle", "operator"})),
		"jti empty":                   sign(c.with("jti", "")),
		"jti too long":                sign(c.with("jti", strings.Repeat(canary, 20))),
		"jti number":                  sign(c.with("jti", 7)),
		"scope list":                  sign(c.with("role", "service").with("scope", []string{"command:send"})),
		"scope too many":              sign(c.with("role", "service").with("scope", strings.Repeat("command:send ", 33))),
		"cnf of another kind":         sign(c.with("cnf", map[string]string{"jkt": b64(digest(nil))})),
		"cnf of two kinds":            sign(c.with("cnf", map[string]string{"x5t#S256": b64(digest(nil)), "jkt": "x"})),
		"cnf empty":                   sign(c.with("cnf", map[string]string{})),
		"cnf null":                    sign(c.with("cnf", nil)),
		"cnf text":                    sign(c.with("cnf", canary)),
		"cnf bound, no certificate":   sign(c.with("cnf", map[string]string{"x5t#S256": b64(digest([]byte("x")))})),
		"cnf short":                   sign(c.with("cnf", map[string]string{"x5t#S256": "AAAA"})),
		"claims with names in case":   sign(c.without("sub").plus("SUB", testVIN)),
		"claims with role in case":    sign(c.without("role").plus("Role", "operator")),
		"claims with escaped doubles": g.sign(g.header.json(), strings.TrimSuffix(c.json(), "}")+`,"\u0073ub":"`+otherVIN+`"}`),
	}
	for _, name := range []string{"iss", "aud", "sub", "role", "iat", "exp", "jti"} {
		out[name+" missing"] = sign(c.without(name))
		out[name+" null"] = sign(c.with(name, nil))
		out[name+" twice"] = sign(c.plus(name, c[slices.IndexFunc(c, func(m member) bool { return m.name == name })].value))
	}
	return out
}

func hostileTimes(g *forge) map[string]string {
	c, now := g.claims, g.f.clock.Now().Unix()
	sign := func(claims obj) string { return g.sign(g.header.json(), claims.json()) }
	at := func(iat, exp int64) string { return sign(c.with("iat", iat).with("exp", exp)) }
	return map[string]string{
		"expired":                  at(now-7200, now-3600),
		"expired by the leeway":    at(now-7200, now-60),
		"not yet issued":           at(now+61, now+3600),
		"nbf ahead":                sign(c.with("nbf", now+61)),
		"nbf text":                 sign(c.with("nbf", fmt.Sprint(now))),
		"nbf null":                 sign(c.with("nbf", nil)),
		"exp before iat":           at(now, now-1),
		"exp equals iat":           at(now, now),
		"exp text":                 sign(c.with("exp", fmt.Sprint(now+3600))),
		"exp never":                sign(c.with("exp", raw("99999999999999999999"))),
		"exp 1e400":                sign(c.with("exp", raw("1e400"))),
		"exp negative":             sign(c.with("exp", -1)),
		"exp a hundred years out":  at(now, now+100*365*86400),
		"exp in milliseconds":      at(now, (now+3600)*1000),
		"exp true":                 sign(c.with("exp", true)),
		"exp object":               sign(c.with("exp", raw(`{"$gt":0}`))),
		"exp hexadecimal":          sign(c.with("exp", raw("0xffffffff"))),
		"exp with a plus":          sign(c.with("exp", raw(fmt.Sprintf("+%d", now+3600)))),
		"iat negative":             sign(c.with("iat", -5)),
		"iat zero":                 sign(c.with("iat", 0)),
		"iat text":                 sign(c.with("iat", canary)),
		"lives longer than MaxTTL": at(now-10, now+int64((91*24*time.Hour)/time.Second)),
	}
}

func hostileJSON(g *forge) map[string]string {
	c := g.claims.json()
	sign := func(claims string) string { return g.sign(g.header.json(), claims) }
	return map[string]string{
		"claims are a list":            sign("[" + c + "]"),
		"claims are null":              sign("null"),
		"claims are empty":             sign("{}"),
		"claims are text":              sign(`"` + canary + `"`),
		"claims are not JSON":          sign("<" + canary + ">"),
		"claims end early":             sign(c[:len(c)-1]),
		"claims with trailing bytes":   sign(c + canary),
		"claims twice":                 sign(c + c),
		"claims with a comment":        sign("/*" + canary + "*/" + c),
		"claims with a trailing comma": sign(strings.TrimSuffix(c, "}") + ",}"),
		"claims with a BOM":            sign("\ufeff" + c),
		"claims in UTF-16":             sign("\xff\xfe{\x00}\x00"),
		"claims not UTF-8":             sign(strings.TrimSuffix(c, "}") + ",\"x\":\"\xc3\x28\"}"),
		"claims too deep":              sign(strings.TrimSuffix(c, "}") + `,"x":` + strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300) + "}"),
		"claims with a nested double":  sign(strings.TrimSuffix(c, "}") + `,"x":{"a":1,"a":2}}`),
		"claims with NaN":              sign(strings.TrimSuffix(c, "}") + `,"x":NaN}`),
	}
}

func digest(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// names returns the sorted keys, so that subtests run in a fixed order.
func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
