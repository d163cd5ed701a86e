package app

import (
	"strings"
	"testing"

	"cellgate/rules/lang"
	"cellgate/test/check"
)

func given(t *testing.T, files map[string]string) *lang.Folder {
	t.Helper()
	f, err := (&RuleFiles{Files: files}).folder()
	check.OK(t, err)
	return f
}

// TestApplicationLasts: rules that came over the API are checked and tested before they go into force, and are in force over a restart
// in place of the files, until these change, a reload is asked for, or a rollback.
func TestApplicationLasts(t *testing.T) {
	t.Parallel()
	a, dir, file := withRules(t)
	checked := prepareOptions{tests: true}
	const rule = "rules:\n  - {id: sent, from: [\"v1/+/up/telemetry\"], to: [{kafka: {topic: t}}]}\n"
	for name, files := range map[string]map[string]string{
		"a mistake":      {"x.rules.yaml": strings.Replace(rule, "kafka", "kfaka", 1)},
		"a failing test": {"x.rules.yaml": rule, "x_test.yaml": "tests: [{name: a, steps: [{payload: {}, expect: none}]}]\n"},
		"nothing":        {},
		"no rules":       {"x.rules.yaml": "rules: []\n"},
		"an endpoint that is not there": {
			"x.rules.yaml": "rules:\n  - {id: sent, from: [\"v1/+/up/telemetry\"], to: [{webhook: {name: crm}}]}\n",
		},
	} {
		if err := a.rules.applyGiven(t.Context(), given(t, files), checked); err == nil {
			t.Errorf("%s goes into force", name)
		}
		rulesAre(t, a, "good", true)
	}
	sent := given(t, map[string]string{"x.rules.yaml": rule, "x_test.yaml": "tests: [{name: a, steps: [{payload: {}, expect: [{rule: sent}]}]}]\n"})
	check.OK(t, a.rules.applyGiven(t.Context(), sent, checked))
	rulesAre(t, a, "sent", false)
	if s := a.rules.state(); !s.Applied || !strings.Contains(s.Error, "over the API") {
		t.Errorf("state %+v", s)
	}
	if broken := a.rules.dependencies(); len(broken) != 0 {
		t.Errorf("an operator's word is no fault: %+v", broken)
	}
	lookAt(t, a, "sent", false)
	halt(t, a)

	a, _ = boot(t, file)
	rulesAre(t, a, "sent", false)
	lookAt(t, a, "sent", false)
	writeRules(t, dir, "newer")
	lookAt(t, a, "newer", true)
	check.OK(t, a.rules.applyGiven(t.Context(), sent, checked))
	check.OK(t, a.rules.applyFiles(t.Context(), false, false))
	rulesAre(t, a, "newer", true)
	check.OK(t, a.rules.applyGiven(t.Context(), sent, checked))
	check.OK(t, a.rules.rollback(t.Context(), ""))
	rulesAre(t, a, "newer", false)
	check.OK(t, a.rules.applyGiven(t.Context(), given(t, nil), prepareOptions{tests: true, allowEmpty: true}))
	if s := a.rules.state(); len(s.Rules) != 0 || !s.Applied {
		t.Errorf("without rules, as allowed: %+v", s)
	}
}

func TestNamesOfSentFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a.yaml", "/a.rules.yaml", "../a.rules.yaml", "a/../../b.rules.yaml", "", "a//b_test.yaml"} {
		if _, err := (&RuleFiles{Files: map[string]string{name: ""}}).folder(); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
}
