package app

import (
	"net/http"
	"testing"

	"cellgate/auth"
	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestHistoryShowsWhatRanAndGoesBackToIt: each set once, with its files and what it would change; a rollback takes any of them.
func TestHistoryShowsWhatRanAndGoesBackToIt(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: "tester", Role: auth.RoleOperator})
	check.OK(t, err)
	put := func(when string) string {
		t.Helper()
		text := "rules:\n  - id: x\n    from: [\"v1/+/up/telemetry\"]\n    when: " + when + "\n    to: [{kafka: {topic: t}}]\n"
		status, _, body, err := harness.Call(t.Context(), http.MethodPut, a.HTTPURL()+"/v1/rules", token, map[string]any{"files": map[string]string{"x.rules.yaml": text}})
		if err != nil || status != http.StatusOK {
			t.Fatalf("%d %s %v", status, body, err)
		}
		return a.rules.state().Hash
	}
	one, two := put("payload.a > 1"), put("payload.a > 2")
	put("payload.a > 3")
	put("payload.a > 2")
	var all RuleHistory
	if code := get(t, a, "/v1/rules/history", token, &all); code != http.StatusOK || len(all.Sets) != 4 || all.Sets[0].Hash != two || !all.Sets[0].InForce || !all.Sets[0].Applied {
		t.Fatalf("%d %+v", code, all)
	}
	var ran RanRules
	get(t, a, "/v1/rules/history/"+one, token, &ran)
	if ran.Files["x.rules.yaml"] == "" || ran.Diff == nil || len(ran.Diff.Changes) != 1 || ran.Diff.Changes[0].Parts[0].New != "payload.a > 1" {
		t.Errorf("%+v", ran)
	}
	rollback := func(hash string) int {
		t.Helper()
		status, _, _, err := harness.Call(t.Context(), http.MethodPost, a.HTTPURL()+"/v1/rules/rollback", token, map[string]string{"hash": hash})
		check.OK(t, err)
		return status
	}
	if code := rollback(one); code != http.StatusOK || a.rules.state().Hash != one {
		t.Errorf("rollback %d to %s", code, a.rules.state().Hash)
	}
	if code := rollback("none"); code != http.StatusConflict {
		t.Errorf("a set that never ran: %d", code)
	}
}

// TestExplainWithGivenRules: the playground's request.
func TestExplainWithGivenRules(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	token, _, err := a.Authority().Issue(auth.IssueRequest{Subject: "tester", Role: auth.RoleOperator})
	check.OK(t, err)
	hash := a.rules.state().Hash
	for when, want := range map[string]int{"payload.soc < 15": http.StatusOK, "payload.soc <": http.StatusUnprocessableEntity} {
		body := map[string]any{"topic": "v1/LTEST000000000001/up/telemetry", "payload": map[string]int{"soc": 9}, "files": map[string]string{
			"x.rules.yaml": "rules:\n  - id: x\n    from: [\"#\"]\n    when: " + when + "\n    to: [{kafka: {topic: t}}]\n",
		}}
		if status, _, text, err := harness.Call(t.Context(), http.MethodPost, a.HTTPURL()+"/v1/rules/explain", token, body); err != nil || status != want {
			t.Errorf("%s: %d %s %v", when, status, text, err)
		}
	}
	if now := a.rules.state().Hash; now != hash || len(a.drafts.all) != 0 || len(a.drafts.queues) != 0 {
		t.Errorf("the rules in force changed to %s", now)
	}
}
