package forge

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
)

// Hostile returns tokens that must be refused, by name. The canary is in each, wherever an attacker can put text.
func (f *Forge) Hostile(t testing.TB) map[string]string {
	t.Helper()
	with := *f
	g := &with
	g.Claims = g.Claims.Plus("note", Canary)
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

func hostileHeaders(t testing.TB, g *Forge) map[string]string {
	h, c := g.Header, g.Claims.JSON()
	sign := func(header Obj) string { return g.Sign(header.JSON(), c) }
	publicDER := publicBytes(t, g.Key.Public())
	hmacSigned := func(key []byte, kid any) string {
		input := B64([]byte(h.With("alg", "HS256").With("kid", kid).JSON())) + "." + B64([]byte(c))
		return input + "." + B64(hs256(key, []byte(input)))
	}
	attacker := publicJWK(t, AttackerKey(t))
	out := map[string]string{
		"alg none":                   sign(h.With("alg", "none")),
		"alg None":                   sign(h.With("alg", "None")),
		"alg nOnE":                   sign(h.With("alg", "nOnE")),
		"alg empty":                  sign(h.With("alg", "")),
		"alg missing":                sign(h.Without("alg")),
		"alg null":                   sign(h.With("alg", nil)),
		"alg number":                 sign(h.With("alg", 256)),
		"alg list":                   sign(h.With("alg", []string{"ES256"})),
		"alg lower case":             sign(h.With("alg", "es256")),
		"alg of another key type":    sign(h.With("alg", "EdDSA")),
		"alg RS256":                  sign(h.With("alg", "RS256")),
		"alg ES384":                  sign(h.With("alg", "ES384")),
		"HS256 with the public key":  hmacSigned(publicDER, g.KID),
		"HS256 with the kid":         hmacSigned([]byte(g.KID), g.KID),
		"HS256 with an empty key":    hmacSigned(nil, g.KID),
		"HS256 with kid /dev/null":   hmacSigned(nil, "/dev/null"),
		"kid missing":                sign(h.Without("kid")),
		"kid empty":                  sign(h.With("kid", "")),
		"kid null":                   sign(h.With("kid", nil)),
		"kid unknown":                sign(h.With("kid", Canary)),
		"kid path":                   sign(h.With("kid", "../"+g.KID)),
		"kid file":                   sign(h.With("kid", "key-"+g.KID+".json")),
		"kid absolute path":          sign(h.With("kid", g.KeyPath)),
		"kid SQL":                    sign(h.With("kid", "x' UNION SELECT '"+Canary)),
		"kid with a NUL":             sign(h.With("kid", g.KID+"\x00")),
		"kid in other case":          sign(h.With("kid", strings.ToUpper(g.KID))),
		"kid number":                 sign(h.With("kid", 1)),
		"kid URL":                    sign(h.With("kid", "http://127.0.0.1/"+Canary)),
		"typ missing":                sign(h.Without("typ")),
		"typ at+jwt":                 sign(h.With("typ", "at+jwt")),
		"typ lower case":             sign(h.With("typ", "jwt")),
		"typ JOSE":                   sign(h.With("typ", "JOSE")),
		"typ null":                   sign(h.With("typ", nil)),
		"crit":                       sign(h.With("crit", []string{"exp"})),
		"crit empty":                 sign(h.With("crit", []string{})),
		"crit null":                  sign(h.With("crit", nil)),
		"b64 false":                  sign(h.With("b64", false)),
		"jku":                        sign(h.With("jku", "https://attacker.example/"+Canary)),
		"x5u":                        sign(h.With("x5u", "https://attacker.example/"+Canary)),
		"x5c":                        sign(h.With("x5c", []string{B64(publicDER)})),
		"jwk of the attacker":        sign(h.With("jwk", Raw(attacker.JSON()))),
		"zip":                        sign(h.With("zip", "DEF")),
		"enc":                        sign(h.With("enc", "A256GCM")),
		"cty nested":                 sign(h.With("cty", "JWT")),
		"duplicate alg":              sign(h.Plus("alg", "none")),
		"duplicate kid":              sign(h.Plus("kid", Canary)),
		"duplicate typ":              sign(h.Plus("typ", "JWT")),
		"header is a list":           g.Sign(`["alg","ES256"]`, c),
		"header is a string":         g.Sign(`"`+Canary+`"`, c),
		"header is null":             g.Sign(`null`, c),
		"header is not JSON":         g.Sign(Canary, c),
		"header with trailing bytes": g.Sign(h.JSON()+"{}", c),
		"header too deep":            sign(h.With("x", Raw(strings.Repeat("[", 50)+strings.Repeat("]", 50)))),
		"header not UTF-8":           g.Sign(h.With("x", Raw("\"\xff\xfe\"")).JSON(), c),
		"header Member in upper case": sign(Obj{
			{"ALG", g.Alg}, {"KID", g.KID}, {"TYP", "JWT"},
		}),
	}
	return out
}

func hostileSignatures(t testing.TB, g *Forge) map[string]string {
	good := g.Token()
	head, claims, sig := segments(good)
	input := []byte(head + "." + claims)
	der, err := ecdsa.SignASN1(rand.Reader, g.Key.(*ecdsa.PrivateKey), Digest(input))
	check.OK(t, err)
	flipped, _ := base64.RawURLEncoding.DecodeString(sig)
	flipped[10] ^= 1
	swapped := SignBytes(g.Key, input)
	swapped = append(slices.Clone(swapped[32:]), swapped[:32]...)
	other := g.Sign(g.Header.JSON(), g.Claims.With("jti", "another").JSON())
	_, _, otherSig := segments(other)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	check.OK(t, err)
	with := func(s []byte) string { return string(input) + "." + B64(s) }
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
		"signature by another key":      with(SignBytes(AttackerKey(t), input)),
		"signature by RSA":              with(SignBytes(rsaKey, input)),
		"signature over other claims":   head + "." + B64([]byte(g.Claims.With("sub", g.OtherVIN).JSON())) + "." + sig,
		"signature over another header": B64([]byte(g.Header.With("x", 1).JSON())) + "." + claims + "." + sig,
		"signature is the text canary":  string(input) + "." + Canary,
	}
}

func hostileForms(g *Forge) map[string]string {
	good := g.Token()
	head, claims, sig := segments(good)
	// A spelling of the last character with stray bits set: lenient decoders read the same bytes.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	stray := sig[:len(sig)-1] + string(alphabet[strings.IndexByte(alphabet, sig[len(sig)-1])|1])
	if stray == sig {
		stray = sig[:len(sig)-1] + string(alphabet[strings.IndexByte(alphabet, sig[len(sig)-1])|2])
	}
	out := map[string]string{
		"not a token":            Canary,
		"one dot":                head + "." + claims,
		"dots only":              "..",
		"empty header":           "." + claims + "." + sig,
		"empty claims":           head + ".." + sig,
		"four segments":          good + "." + Canary,
		"five segments, as JWE":  head + "." + claims + "." + sig + "." + sig + "." + sig,
		"JWS JSON form":          Obj{{"protected", head}, {"payload", claims}, {"signature", sig}}.JSON(),
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
		"huge claims, signed":    g.Sign(g.Header.JSON(), g.Claims.With("x", strings.Repeat(Canary, 1000)).JSON()),
		"nested token as claims": g.Sign(g.Header.JSON(), good),
		"many dots":              strings.Repeat(".", 4000),
	}
	return out
}

func hostileClaims(g *Forge) map[string]string {
	c := g.Claims
	sign := func(claims Obj) string { return g.Sign(g.Header.JSON(), claims.JSON()) }
	out := map[string]string{
		"aud of another cell":         sign(c.With("aud", g.OtherCell)),
		"aud list of others":          sign(c.With("aud", []string{g.OtherCell, Canary})),
		"aud list with a number":      sign(c.With("aud", []any{g.Cell, 1})),
		"aud list too long":           sign(c.With("aud", slices.Repeat([]string{g.Cell}, 17))),
		"aud prefix":                  sign(c.With("aud", g.Cell+"-x")),
		"aud object":                  sign(c.With("aud", map[string]string{"x": g.Cell})),
		"iss of another cell":         sign(c.With("iss", "cellgate/"+g.OtherCell)),
		"iss list":                    sign(c.With("iss", []string{"cellgate/" + g.Cell})),
		"sub empty":                   sign(c.With("sub", "")),
		"sub number":                  sign(c.With("sub", 1)),
		"sub wildcard +":              sign(c.With("sub", "+")),
		"sub wildcard #":              sign(c.With("sub", "#")),
		"sub with a level":            sign(c.With("sub", g.VIN+"/up/#")),
		"sub with a newline":          sign(c.With("sub", g.VIN+"\n"+Canary)),
		"sub with a NUL":              sign(c.With("sub", g.VIN+"\x00")),
		"sub with a bidi override":    sign(c.With("sub", "\u202e"+g.VIN)),
		"sub with a lone surrogate":   sign(c.With("sub", Raw(`"\ud800`+Canary+`"`))),
		"sub $SYS":                    sign(c.With("sub", "$SYS")),
		"sub too long":                sign(c.With("sub", strings.Repeat("A", 129))),
		"role empty":                  sign(c.With("role", "")),
		"role unknown":                sign(c.With("role", Canary)),
		"role in upper case":          sign(c.With("role", "Operator")),
		"role list":                   sign(c.With("role", []string{"vehicle", "operator"})),
		"jti empty":                   sign(c.With("jti", "")),
		"jti too long":                sign(c.With("jti", strings.Repeat(Canary, 20))),
		"jti number":                  sign(c.With("jti", 7)),
		"scope list":                  sign(c.With("role", "service").With("scope", []string{"command:send"})),
		"scope too many":              sign(c.With("role", "service").With("scope", strings.Repeat("command:send ", 33))),
		"cnf of another kind":         sign(c.With("cnf", map[string]string{"jkt": B64(Digest(nil))})),
		"cnf of two kinds":            sign(c.With("cnf", map[string]string{"x5t#S256": B64(Digest(nil)), "jkt": "x"})),
		"cnf empty":                   sign(c.With("cnf", map[string]string{})),
		"cnf null":                    sign(c.With("cnf", nil)),
		"cnf text":                    sign(c.With("cnf", Canary)),
		"cnf bound, no certificate":   sign(c.With("cnf", map[string]string{"x5t#S256": B64(Digest([]byte("x")))})),
		"cnf short":                   sign(c.With("cnf", map[string]string{"x5t#S256": "AAAA"})),
		"claims with names in case":   sign(c.Without("sub").Plus("SUB", g.VIN)),
		"claims with role in case":    sign(c.Without("role").Plus("Role", "operator")),
		"claims with escaped doubles": g.Sign(g.Header.JSON(), strings.TrimSuffix(c.JSON(), "}")+`,"\u0073ub":"`+g.OtherVIN+`"}`),
	}
	for _, name := range []string{"iss", "aud", "sub", "role", "iat", "exp", "jti"} {
		out[name+" missing"] = sign(c.Without(name))
		out[name+" null"] = sign(c.With(name, nil))
		out[name+" twice"] = sign(c.Plus(name, c[slices.IndexFunc(c, func(m Member) bool { return m.Name == name })].Value))
	}
	return out
}

func hostileTimes(g *Forge) map[string]string {
	c, now := g.Claims, g.Now.Unix()
	sign := func(claims Obj) string { return g.Sign(g.Header.JSON(), claims.JSON()) }
	at := func(iat, exp int64) string { return sign(c.With("iat", iat).With("exp", exp)) }
	return map[string]string{
		"expired":                  at(now-7200, now-3600),
		"expired by the leeway":    at(now-7200, now-60),
		"not yet issued":           at(now+61, now+3600),
		"nbf ahead":                sign(c.With("nbf", now+61)),
		"nbf text":                 sign(c.With("nbf", fmt.Sprint(now))),
		"nbf null":                 sign(c.With("nbf", nil)),
		"exp before iat":           at(now, now-1),
		"exp equals iat":           at(now, now),
		"exp text":                 sign(c.With("exp", fmt.Sprint(now+3600))),
		"exp never":                sign(c.With("exp", Raw("99999999999999999999"))),
		"exp 1e400":                sign(c.With("exp", Raw("1e400"))),
		"exp negative":             sign(c.With("exp", -1)),
		"exp a hundred years out":  at(now, now+100*365*86400),
		"exp in milliseconds":      at(now, (now+3600)*1000),
		"exp true":                 sign(c.With("exp", true)),
		"exp object":               sign(c.With("exp", Raw(`{"$gt":0}`))),
		"exp hexadecimal":          sign(c.With("exp", Raw("0xffffffff"))),
		"exp with a plus":          sign(c.With("exp", Raw(fmt.Sprintf("+%d", now+3600)))),
		"iat negative":             sign(c.With("iat", -5)),
		"iat zero":                 sign(c.With("iat", 0)),
		"iat text":                 sign(c.With("iat", Canary)),
		"lives longer than MaxTTL": at(now-10, now+int64((91*24*time.Hour)/time.Second)),
	}
}

func hostileJSON(g *Forge) map[string]string {
	c := g.Claims.JSON()
	sign := func(claims string) string { return g.Sign(g.Header.JSON(), claims) }
	return map[string]string{
		"claims are a list":            sign("[" + c + "]"),
		"claims are null":              sign("null"),
		"claims are empty":             sign("{}"),
		"claims are text":              sign(`"` + Canary + `"`),
		"claims are not JSON":          sign("<" + Canary + ">"),
		"claims end early":             sign(c[:len(c)-1]),
		"claims with trailing bytes":   sign(c + Canary),
		"claims twice":                 sign(c + c),
		"claims with a comment":        sign("/*" + Canary + "*/" + c),
		"claims with a trailing comma": sign(strings.TrimSuffix(c, "}") + ",}"),
		"claims with a BOM":            sign("\ufeff" + c),
		"claims in UTF-16":             sign("\xff\xfe{\x00}\x00"),
		"claims not UTF-8":             sign(strings.TrimSuffix(c, "}") + ",\"x\":\"\xc3\x28\"}"),
		"claims too deep":              sign(strings.TrimSuffix(c, "}") + `,"x":` + strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300) + "}"),
		"claims with a nested double":  sign(strings.TrimSuffix(c, "}") + `,"x":{"a":1,"a":2}}`),
		"claims with NaN":              sign(strings.TrimSuffix(c, "}") + `,"x":NaN}`),
	}
}
