package app

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cellgate/rules/lang"
	"cellgate/rules/workbench"
	"cellgate/test/check"
)

func given(t *testing.T, files map[string]string) *lang.Folder {
	t.Helper()
	f, err := (&RuleFiles{Files: files}).folder()
	check.OK(t, err)
	return f
}

// TestApplicationLasts: rules that came over the API are checked and tested before they go into force, and are in force over a restart
// instead of the files, until these change, or until a reload or rollback.
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
	for _, name := range []string{"a.yaml", "/a.rules.yaml", "../a.rules.yaml", "a/../../b.rules.yaml", "", "a//b_test.yaml", "../m.csv", "unused.csv"} {
		if _, err := (&RuleFiles{Files: map[string]string{name: ""}}).folder(); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
}

// TestSentRulesHaveTheirData: rules over the API include the files of their zones and tables, and equal the same folder
// on the gateway.
func TestSentRulesHaveTheirData(t *testing.T) {
	t.Parallel()
	a, dir, _ := withRules(t)
	files := map[string]string{
		"r/x.rules.yaml": "tables: {models: {file: data/models.csv, key: vin}}\nrules:\n" +
			"  - {id: sent, from: [\"v1/+/up/telemetry\"], when: 'models[vin].tank > 40', to: [{kafka: {topic: t}}]}\n",
		"r/x_test.yaml": "tests:\n  - name: a\n    steps:\n      - {payload: {}, expect: [{rule: sent}]}\n" +
			"      - {vin: LTEST000000000002, payload: {}, expect: none}\n",
		"r/data/models.csv": "vin,tank\nLTEST000000000001,50\nLTEST000000000002,30\n",
	}
	check.OK(t, a.rules.applyGiven(t.Context(), given(t, files), prepareOptions{tests: true}))
	rulesAre(t, a, "sent", false)
	root := filepath.Join(dir, "same")
	for name, text := range files {
		at := filepath.Join(root, name)
		check.Write(t, at, text)
	}
	for _, paths := range [][]string{{root}, {filepath.Join(root, "r")}, {filepath.Join(root, "r", "x.rules.yaml"), filepath.Join(root, "r", "x_test.yaml")}} {
		sent, err := workbench.Files(paths)
		check.OK(t, err)
		if set, err := given(t, sent).Compile(a.rules.options); err != nil || len(set.Compiled) != 1 {
			t.Errorf("%v is sent as %v: %v", paths, slices.Sorted(maps.Keys(sent)), err)
		}
	}
	same, err := lang.LookFolder(root)
	check.OK(t, err)
	if set := a.rules.current(); set.Hash() != same.Source.Hash() {
		t.Errorf("sent rules have the hash %s, the same folder %s", set.Hash(), same.Source.Hash())
	}
}

// TestTooMuchIsSent: the refusal of a body larger than http.max_body names that key.
func TestTooMuchIsSent(t *testing.T) {
	t.Parallel()
	answer := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPut, "/v1/rules", strings.NewReader(`{"files":{"a.rules.yaml":"`+strings.Repeat("#", 2000)+`"}}`))
	r.Body = http.MaxBytesReader(answer, r.Body, 1000)
	if readJSON(answer, r, &RuleFiles{}) || answer.Code != http.StatusRequestEntityTooLarge || !strings.Contains(answer.Body.String(), "longer than 1000 bytes (http.max_body)") {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
}
