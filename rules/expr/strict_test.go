package expr

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/valyala/fastjson"
)

// FuzzStrict checks that of the input that fastjson's parser accepts, strict accepts the same as encoding/json.
func FuzzStrict(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-2.5e+3,true,false,null,"x\u00e9\n"],"b":{}}`, `1-2`, `nan`, `-inf`, `NaN`, `01`, `1.`, `.5`, `+1`, `1e`, `-`, `"\x"`, "\"\t\"",
		`"\u12g4"`, `[1 2]`, `{"a":1-}`, ` 0 `, `-0.0E-0`, `"a\\"`, `[nul]`, `{"n":nan}`, `"\ud800"`, "\"\xff\"",
	} {
		f.Add([]byte(s))
	}
	for n := range 20 { // texts are checked eight bytes at a time
		for _, c := range []string{"", "\x1f", "\x00", `\"`, `\\`, `\u00e9`, `\q`, "\x7f", "\x80", "é", " !"} {
			f.Add([]byte(`["` + strings.Repeat("x", n) + c + strings.Repeat("y", 9-n%9) + `",0]`))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p fastjson.Parser
		if _, err := p.ParseBytes(b); err != nil {
			return
		}
		if want := json.Valid(b); strict(b) != want {
			t.Fatalf("%q: %t, want %t", b, !want, want)
		}
	})
}
