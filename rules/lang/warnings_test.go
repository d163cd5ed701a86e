package lang_test

import (
	"fmt"
	"slices"
	"testing"

	"cellgate/rules/doc"
	"cellgate/rules/lang"
	"cellgate/rules/rulestest"
)

// TestWarnings checks which warnings working rules give, and which they do not.
func TestWarnings(t *testing.T) {
	t.Parallel()
	rule := func(text string) string {
		return "rules:\n  - id: r\n    from: [\"v1/+/up/telemetry\"]\n    " + text + "\n    to: [{kafka: {topic: t}}]\n"
	}
	for _, c := range []struct {
		text string
		want []string
	}{
		{rule("when: late_ms > 5000"), []string{"4:11 R083"}},
		{"schema: {event_at: ts}\n" + rule("when: late_ms > 5000"), nil},
		{rule("when: payload.soc < 15"), nil},
		{rule("when: payload.a < 1; payload.b > 2"), []string{"4:21 R082"}},
		{rule("when: \"'payload.gear' == 'D'\""), []string{"4:12 R081", "4:27 R080"}},
		{rule("when: payload.gear == \"payload.gear\""), []string{"4:27 R081"}},
		{rule("transform: {a: \"'payload.a'\"}"), []string{"4:21 R081"}},
		{rule("transform: {a: payload.a, b, 'c d', e: payload.e}"), []string{"4:31 R089", "4:34 R089"}},
		{rule("transform: {a: null, b: ~, c: {d: null}, null: vin}"), nil},
		{rule("transform:\n      a: null\n      b:\n      c: vin"), []string{"6:7 R089"}},
		{rule("transform: {set: {a, b: vin}}"), []string{"4:23 R089"}},
		{rule("when: payload.soc < 15 and true"), []string{"4:32 R080"}},
		{rule("when: false or payload.soc < 15"), []string{"4:11 R080"}},
		{rule("when: 1 < 2"), []string{"4:13 R080"}},
		{rule("when: true"), []string{"4:11 R080"}},
		{rule("when: payload.soc == payload.soc"), []string{"4:23 R080"}},
		{rule("when: payload.soc < 5 and payload.soc > 10"), []string{"4:27 R080"}},
		{rule("when: payload.soc <= 5 and payload.soc >= 5"), nil},
		{rule("when: payload.gear == \"D\" and payload.gear == \"P\""), []string{"4:31 R080"}},
		{rule("when: payload.gear != \"D\" or payload.gear != \"P\""), []string{"4:31 R080"}},
		{rule("when: payload.gear == \"D\" or payload.gear == \"P\""), nil},
		{rule("when: 'true ? payload.a > 1 : false'"), []string{"4:12 R080"}},
		{rule("threshold: {enter: payload.soc < 15, exit: payload.soc > 10}"), []string{"4:48 R085"}},
		{rule("threshold: {enter: payload.soc < 15, exit: payload.soc >= 15}"), nil},
		{rule("threshold: {enter: payload.soc < 15, exit: payload.soc < 15}"), []string{"4:48 R085"}},
		{rule("threshold: {enter: payload.soc < 15, exit: payload.speed > 5}"), nil},
		{rule("threshold: {enter: payload.soc < 15 and payload.speed > 0, exit: payload.soc > 10}"), []string{"4:70 R085"}},
		{rule("threshold: {enter: payload.soc < 15 and payload.speed > 0, exit: payload.soc > 20}"), nil},
		{rule("threshold: {enter: payload.soc < 15 and payload.speed > 0, exit: payload.soc < 20 and payload.speed == 0}"), nil},
		{rule("threshold: {enter: payload.soc < 15, exit: payload.soc > 10 and payload.speed == 0}"), []string{"4:48 R085"}},
		{rule("threshold: {enter: payload.soc < 15 and payload.on == true, exit: payload.soc > 10 and payload.speed == 0}"), nil},
		{rule("threshold: {enter: payload.soc < 15 or payload.temp > 90, exit: payload.soc >= 15}"), []string{"4:69 R085"}},
		{rule("threshold: {enter: payload.soc < 15 or payload.temp > 90, exit: payload.soc >= 15 and payload.temp <= 90}"), nil},
		{rule("threshold: {enter: 'payload.gear in [\"R\", \"N\"]', exit: payload.gear != \"R\"}"), []string{"4:60 R085"}},
		{rule("threshold: {enter: 'payload.gear in [\"R\", \"N\"]', exit: 'payload.gear not in [\"R\", \"N\"]'}"), nil},
		{rule("threshold: {enter: 'payload.code in [1, 2]', exit: payload.code > 1.5}"), []string{"4:56 R085"}},
		{rule("threshold: {enter: payload.on == true, exit: payload.on == false}"), nil},
		{rule("threshold: {enter: payload.a != nil and payload.a > 5, exit: payload.a == nil}"), nil},
		{rule("threshold: {enter: payload.a > 4, exit: payload.a < 5}"), []string{"4:45 R085"}},
		{"schema: {fields: {a: integer}}\n" + rule("threshold: {enter: payload.a > 4, exit: payload.a < 5}"), nil},
		{"lists: {pilots: [A], used: [A]}\nmacros: {m: payload.a > 1, n: payload.b > 1, o: n}\n" + rule("when: vin in used and o"), []string{"1:9 R086", "2:10 R086"}},
		{"lists: {classes: [telemetry]}\n" + rule("mode: enabled"), []string{"1:9 R086"}},
		{"rules:\n  - id: r\n    from: [\"v1/+/up/telemetry\", \"v1/+/telemetry\", \"v2/#\", \"v1/+/cmd/#\", \"v1/+/up\", \"v1/+/res/+\", \"v1/+/token\", \"$SYS/#\"]\n    to: [{kafka: {topic: t}}]\n", []string{
			"3:33 R084", "3:51 R084", "3:59 R084", "3:73 R084", "3:84 R084", "3:98 R084", "3:112 R084",
		}},
		{"rules:\n  - id: r\n    from: [\"#\", \"v1/#\", \"+/+/up/event/door\", \"v1/VIN1/res/+/failed\", \"v1/+/+/#\", \"v1/+/up/#\"]\n    to: [{kafka: {topic: t}}]\n", nil},
		{"rules:\n  - id: r\n    from: [\"#\"]\n    to: [{kafka: {topic: \"t.${vin}\"}}, {redis: {string: \"s:${vin}\"}}]\n", []string{"4:31 R087"}},
	} {
		set, found := lang.Compile(lang.NewSource(map[string][]byte{"a.rules.yaml": []byte(c.text)}), rulestest.Options(""))
		var got []string
		for _, d := range found {
			got = append(got, fmt.Sprintf("%d:%d %s", d.Line, d.Column, d.Code))
			if d.Level != doc.Warning || d.Suggestion == "" {
				t.Errorf("%s: %v", c.text, d)
			}
		}
		if set == nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v\n%v", c.text, got, c.want, found)
		}
		if set != nil && len(set.Warnings) != len(found) {
			t.Errorf("%s: the set does not have its warnings", c.text)
		}
	}
}

// TestErrorsComeWithWarnings checks that a rule set with an error is not applied, and that its warnings are reported
// with the error.
func TestErrorsComeWithWarnings(t *testing.T) {
	t.Parallel()
	set, found := lang.Compile(lang.NewSource(map[string][]byte{"a.rules.yaml": []byte("rules:\n  - id: r\n    from: [x]\n    when: soc < 5 and true\n    to: [{kafka: {topic: t}}]\n")}), rulestest.Options(""))
	if set != nil || found.Count(doc.Error) != 1 || found.Count(doc.Warning) != 1 || found.Err() == nil {
		t.Errorf("%v", found)
	}
}
