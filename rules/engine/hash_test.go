package engine

import (
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// TestHash checks that a value is hashed with the key of its time of receipt, which is not part of the rules.
func TestHash(t *testing.T) {
	t.Parallel()
	text := ruleWith("sample: 1ms", "{v: hash(vin), n: hash(payload.n), no: hash(payload.no)}")
	src := lang.NewSource(map[string][]byte{"a.rules.yaml": []byte(text)})
	compile := func(keys *lang.HashKeys, stored bool) (*lang.Set, doc.Diagnostics) {
		o := rulestest.Options("")
		o.HashKeys, o.Stored = keys, stored
		return lang.Compile(src, o)
	}
	later := time.UnixMilli(rulestest.Epoch).Add(time.Hour)
	keys := lang.HashKeys{{ID: "k1", Secret: []byte("one key of sixteen")}, {ID: "k2", From: later, Secret: []byte("another key of them")}}
	value := func(keys *lang.HashKeys, at int64) string {
		set, found := compile(keys, false)
		if set == nil {
			t.Fatal(found)
		}
		return string(renderOne(t, set, rulestest.Telemetry(1, at, `{"n":9007199254740993}`))[0].Value)
	}
	first, second := value(&keys, rulestest.Epoch), value(&keys, later.UnixMilli())
	one := keys[:1]
	if !strings.HasPrefix(first, `{"v":"k1.`) || !strings.HasPrefix(second, `{"v":"k2.`) || !strings.HasSuffix(first, `,"no":null}`) || first != value(&one, rulestest.Epoch) {
		t.Errorf("%s, then %s", first, second)
	}
	if got := value(nil, rulestest.Epoch); !strings.HasPrefix(got, `{"v":"test.`) || strings.Contains(got, first[10:30]) {
		t.Errorf("without a gateway: %s", got)
	}
	set, found := compile(&lang.HashKeys{}, false)
	if set != nil || found[0].Code != doc.CodeHashKey {
		t.Errorf("a gateway without keys: %v", found)
	}
	if set, found = compile(&lang.HashKeys{}, true); set == nil {
		t.Errorf("a set that was in force: %v", found)
	}
	if err := renderErr(set, rulestest.Telemetry(1, rulestest.Epoch, `{}`)); err == nil || !strings.Contains(err.Error(), "rules.hash_keys") {
		t.Errorf("a message without a key: %v", err)
	}
}

// renderErr returns the error of rendering a record's first decision.
func renderErr(set *lang.Set, rec message.Record) error {
	var r op.Rendered
	for _, d := range NewEngine(set, state.NewState(state.StateOptions{})).NewWorker().Eval(&rec, nil) {
		return NewRenderer(set).Render(d, &rec, &r)
	}
	return nil
}
