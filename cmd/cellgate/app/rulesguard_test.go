package app

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// ruleFile is the file of writeRules.
func ruleFile(dir string) string { return filepath.Join(dir, "rules", "a.rules.yaml") }

// accidents are accidents to a rules folder, with the resulting text of /readyz.
var accidents = map[string]struct {
	does func(t *testing.T, dir string)
	told string
}{
	"a file without a byte": {func(t *testing.T, dir string) { check.Write(t, ruleFile(dir), "") }, "errors"},
	"a file of comments":    {func(t *testing.T, dir string) { check.Write(t, ruleFile(dir), "# to come\n\n---\n") }, "errors"},
	"a file cut short":      {func(t *testing.T, dir string) { check.Write(t, ruleFile(dir), "rules:\n") }, "errors"},
	"a file without rules":  {func(t *testing.T, dir string) { check.Write(t, ruleFile(dir), "lists: {a: [b]}\n") }, "errors"},
	"a new file, empty":     {func(t *testing.T, dir string) { check.Write(t, filepath.Join(dir, "rules", "b.rules.yaml"), "") }, "errors"},
	"the file is gone":      {func(t *testing.T, dir string) { check.OK(t, os.Remove(ruleFile(dir))) }, "no file"},
	"the file is elsewhere": {func(t *testing.T, dir string) { check.OK(t, os.Rename(ruleFile(dir), ruleFile(dir)+".bak")) }, "no file"},
	"the folder is gone":    {func(t *testing.T, dir string) { check.OK(t, os.RemoveAll(filepath.Join(dir, "rules"))) }, "folder is missing"},
	"the folder is another": {func(t *testing.T, dir string) {
		check.OK(t, os.Rename(filepath.Join(dir, "rules"), filepath.Join(dir, "rules.old")))
		check.OK(t, os.Mkdir(filepath.Join(dir, "rules"), 0o700))
	}, "no file"},
}

// Running rules survive accidents to their folder, on every way to new rules and over a restart. When the folder is
// restored the report ends.
func TestRulesOutliveTheirFolder(t *testing.T) {
	t.Parallel()
	for name, m := range accidents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, dir, file := withRules(t)
			m.does(t, dir)
			lookAt(t, a, "good", false)
			if _, err := a.Reload(t.Context()); err == nil {
				t.Error("a reload found nothing wrong")
			}
			rulesAre(t, a, "good", false)
			if code := post(t, a, "/v1/rules/reload", ""); code != http.StatusUnprocessableEntity {
				t.Errorf("POST /v1/rules/reload answered %d", code)
			}
			rulesAre(t, a, "good", false)
			degradedRules(t, a, m.told)
			halt(t, a)

			a, _ = boot(t, file)
			rulesAre(t, a, "good", false)
			degradedRules(t, a, m.told)
			check.OK(t, os.RemoveAll(filepath.Join(dir, "rules")))
			writeRules(t, dir, "good")
			lookAt(t, a, "good", true)
		})
	}
}

// A gateway without earlier rules does not start without rules, and does not create their folder.
func TestAFirstStartNeedsRules(t *testing.T) {
	t.Parallel()
	for name, m := range accidents {
		if name == "a new file, empty" {
			continue // beside rules
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			writeRules(t, dir, "good")
			file := write(t, dir, "")
			m.does(t, dir)
			err := refusedStart(t, file)
			if err == nil || !strings.Contains(err.Error(), "rules: []") {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "rules")); m.told == "folder is missing" && err == nil {
				t.Error("the folder was made")
			}
		})
	}
}

// post calls the API as an operator and returns the status.
func post(t *testing.T, a *App, path, body string) int {
	t.Helper()
	var content any
	if body != "" {
		content = json.RawMessage(body)
	}
	status, _, _, err := harness.Call(t.Context(), http.MethodPost, a.HTTPURL()+path, operator(t, a), content)
	check.OK(t, err)
	return status
}

// degradedRules checks that /readyz names the rules with a reason that contains text, and that the gateway serves.
func degradedRules(t *testing.T, a *App, text string) {
	t.Helper()
	var r readiness
	code := get(t, a, "/readyz", "", &r)
	for _, d := range r.Degraded {
		if d.Name == "rules" && strings.Contains(d.Reason, text) && code == http.StatusOK {
			return
		}
	}
	t.Errorf("readyz %d %+v: want rules, %q", code, r, text)
}

// rulesEmpty checks that no rule is in force, as the files say.
func rulesEmpty(t *testing.T, a *App) {
	t.Helper()
	if s := a.rules.state(); len(s.Rules) != 0 || s.Broken || s.Hash == "" {
		t.Errorf("rules %+v, %s", s.Rules, s.Error)
	}
}

// A file without rules, or an operator's request for none, is respected over restarts too.
func TestNoRulesOnRequest(t *testing.T) {
	t.Parallel()
	none := func(t *testing.T, _ *App, dir string) { check.Write(t, ruleFile(dir), "rules: []\n") }
	operator := func(m string) func(t *testing.T, a *App, dir string) {
		return func(t *testing.T, a *App, dir string) {
			accidents[m].does(t, dir)
			if code := post(t, a, "/v1/rules/reload", `{"allow_empty": true}`); code != http.StatusOK {
				t.Fatalf("answered %d", code)
			}
		}
	}
	for name, confirm := range map[string]func(t *testing.T, a *App, dir string){
		"a file says so": none, "an empty folder": operator("the file is gone"), "no folder": operator("the folder is gone"),
		"an empty file": operator("a file without a byte"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, dir, file := withRules(t)
			confirm(t, a, dir)
			a.rules.look(t.Context())
			rulesEmpty(t, a)
			halt(t, a)
			a, _ = boot(t, file)
			rulesEmpty(t, a)
			if _, err := a.Reload(t.Context()); err != nil {
				t.Error(err)
			}
			writeRules(t, dir, "good")
			lookAt(t, a, "good", true)
		})
	}
}

// A file without rules that was there before does not permit the removal of the others.
func TestOneFileOfTwoIsNoRequest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeRules(t, dir, "good")
	check.Write(t, filepath.Join(dir, "rules", "b.rules.yaml"), "rules: []\n")
	a, _ := boot(t, write(t, dir, ""))
	check.OK(t, os.Remove(ruleFile(dir)))
	lookAt(t, a, "good", false)
	degradedRules(t, a, "no longer contain rules")
	check.OK(t, a.rules.applyFiles(t.Context(), true, false))
	rulesEmpty(t, a)
}

// Who changes the rules is in the audit log.
func TestChangesOfRulesAreAudited(t *testing.T) {
	t.Parallel()
	a, dir, _ := withRules(t)
	accidents["the file is gone"].does(t, dir)
	post(t, a, "/v1/rules/reload", "")
	post(t, a, "/v1/rules/reload", `{"allow_empty": true}`)
	post(t, a, "/v1/rules/rollback", "")
	text := check.Read(t, filepath.Join(dir, "state", "audit.log"))
	var lines []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"event":"rules"`) {
			lines = append(lines, line)
		}
	}
	for i, want := range [][2]string{{"/v1/rules/reload", "422"}, {"allow_empty", "200"}, {"/v1/rules/rollback", "200"}} {
		if i >= len(lines) || !strings.Contains(lines[i], want[0]) || !strings.Contains(lines[i], `"outcome":"`+want[1]) ||
			!strings.Contains(lines[i], `"by":"operator olga"`) {
			t.Fatalf("line %d: want %q by olga, audit log:\n%s", i, want, lines)
		}
	}
}

const failing = "tests:\n  - name: everything is told\n    steps: [{topic: \"v1/${vin}/up/telemetry\", payload: {a: 1}, expect: none}]\n"

// Rules whose tests fail do not go into force unless the configuration permits it; they do once the test is fixed.
func TestRulesMustPassTheirTests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeRules(t, dir, "good")
	file := write(t, dir, "")
	a, log := boot(t, file)
	tests := filepath.Join(dir, "rules", "a_test.yaml")
	check.Write(t, tests, failing)
	lookAt(t, a, "good", true) // they were in force before the test was there
	writeRules(t, dir, "bad")
	lookAt(t, a, "good", false)
	if _, err := a.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), `"everything is told"`) {
		t.Errorf("reload: %v", err)
	}
	if code := post(t, a, "/v1/rules/reload", ""); code != http.StatusUnprocessableEntity {
		t.Errorf("answered %d", code)
	}
	degradedRules(t, a, "a test")
	a.rules.look(t.Context())
	if n := strings.Count(log.String(), "everything is told"); n != 1 {
		t.Errorf("%d log lines name the test", n)
	}
	halt(t, a)
	a, _ = boot(t, file)
	rulesAre(t, a, "good", false)

	check.Write(t, tests, strings.Replace(failing, "none", "[{rule: bad}]", 1))
	lookAt(t, a, "bad", true)

	check.Write(t, tests, failing)
	writeRules(t, dir, "worse")
	check.Replace(t, file, "watch: false", "watch: false, run_tests: false")
	_, err := a.Reload(t.Context())
	check.OK(t, err)
	rulesAre(t, a, "worse", true)
}

func TestAFirstStartRunsTheTests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeRules(t, dir, "bad")
	check.Write(t, filepath.Join(dir, "rules", "a_test.yaml"), failing)
	if err := refusedStart(t, write(t, dir, "")); err == nil || !strings.Contains(err.Error(), `"everything is told"`) {
		t.Errorf("error %v", err)
	}
}

// A folder that is away for a moment, or broken, does not end a rollback.
func TestARollbackSurvivesAFailedStart(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"the folder is gone", "a file without a byte"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, dir := accidents[name], t.TempDir()
			writeRules(t, dir, "good")
			file := write(t, dir, "")
			a, _ := boot(t, file)
			writeRules(t, dir, "bad")
			check.OK(t, a.rules.applyFiles(t.Context(), false, false))
			check.OK(t, a.rules.rollback(t.Context(), ""))
			for _, restart := range []bool{false, true} {
				m.does(t, dir)
				lookAt(t, a, "good", false)
				if restart {
					halt(t, a)
					a, _ = boot(t, file)
					rulesAre(t, a, "good", false)
				}
				check.OK(t, os.RemoveAll(filepath.Join(dir, "rules")))
				check.OK(t, os.RemoveAll(filepath.Join(dir, "rules.old")))
				writeRules(t, dir, "bad")
				lookAt(t, a, "good", false)
			}
		})
	}
}

// Rules stay in force after the loss of their folder and of the journal that named them.
func TestRulesOutliveTheJournal(t *testing.T) {
	t.Parallel()
	a, dir, file := withRules(t)
	halt(t, a)
	accidents["the folder is gone"].does(t, dir)
	check.OK(t, os.RemoveAll(filepath.Join(dir, "state", "journal")))
	a, _ = boot(t, file)
	rulesAre(t, a, "good", false)
	if hash := a.dispatch.RulesHash(); hash != a.rules.state().Hash {
		t.Errorf("%s governs, %s is shown", hash, a.rules.state().Hash)
	}
}

// Rules that send to a centre that is not configured are reported, at the start and when they are put in force.
func TestACentreThatIsNotThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	check.OK(t, os.CopyFS(filepath.Join(dir, "rules"), os.DirFS("../../../configs/rules")))
	file := write(t, dir, "")
	with, log := boot(t, file)
	for _, d := range with.dependencies() {
		if strings.Contains(d.Reason, "no section central") {
			t.Errorf("with a centre: %+v", d)
		}
	}
	if strings.Contains(log.String(), "no section central") {
		t.Error("with a centre the log says that there is none")
	}
	halt(t, with)

	text := check.Read(t, file)
	i := strings.Index(string(text), "central:")
	j := i + strings.Index(string(text)[i:], "\n")
	check.Write(t, file, string(text)[:i]+string(text)[j+1:])
	a, log := boot(t, file)
	awaitDegraded(t, a, "sync")
	if !strings.Contains(log.String(), "no central section") || !strings.Contains(log.String(), "low-battery") {
		t.Errorf("log:\n%s", log.String())
	}
	if deps := a.dependencies(); !strings.Contains(deps[len(deps)-1].Reason, "no section central") {
		t.Errorf("status: %+v", deps)
	}
	check.Write(t, filepath.Join(dir, "rules", "alerts.rules.yaml"), "rules: []\n")
	check.OK(t, os.Remove(filepath.Join(dir, "rules", "alerts_test.yaml")))
	check.OK(t, os.Remove(filepath.Join(dir, "rules", "telemetry_test.yaml")))
	check.Write(t, filepath.Join(dir, "rules", "telemetry.rules.yaml"), "rules: []\n")
	check.OK(t, a.rules.applyFiles(t.Context(), false, false))
	for _, d := range a.dependencies() {
		if d.Name == "sync" {
			t.Errorf("no rule sends there any more: %+v", d)
		}
	}
}

// The gauges show what is in force, and whether and when the last reload succeeded.
func TestReloadsAreMeasured(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeRules(t, dir, "good")
	file := write(t, dir, "")
	before := time.Now()
	a, _ := boot(t, file)
	m := check.Series(t, a.reg.all)
	if m["cellgate_rules_in_force"] != 1 || m["cellgate_rules_info{hash="+a.rules.state().Hash+"}"] != 1 || m["cellgate_rules_last_reload_successful"] != 1 ||
		m["cellgate_config_info{hash="+a.Config().Hash+"}"] != 1 || m["cellgate_config_last_reload_successful"] != 1 {
		t.Errorf("after the start: %v", m)
	}
	first := map[string]float64{}
	for _, what := range []string{"rules", "config"} {
		at := m["cellgate_"+what+"_last_reload_success_timestamp_seconds"]
		if first[what] = at; at < float64(before.Unix()) || at > float64(time.Now().Unix()+1) {
			t.Errorf("%s: succeeded at %v", what, at)
		}
	}

	accidents["a file without a byte"].does(t, dir)
	a.rules.look(t.Context())
	m = check.Series(t, a.reg.all)
	if m["cellgate_rules_in_force"] != 1 || m["cellgate_rules_last_reload_successful"] != 0 || m["cellgate_config_last_reload_successful"] != 1 {
		t.Errorf("after a refusal: %v", m)
	}
	if _, err := a.Reload(t.Context()); err == nil {
		t.Error("reloaded")
	}
	m = check.Series(t, a.reg.all)
	if m["cellgate_config_last_reload_successful"] != 0 || m["cellgate_config_last_reload_success_timestamp_seconds"] != first["config"] ||
		m["cellgate_rules_last_reload_success_timestamp_seconds"] != first["rules"] {
		t.Errorf("after a refused reload: %v", m)
	}

	check.Write(t, ruleFile(dir), "rules: []\n")
	hash := a.Config().Hash
	check.Replace(t, file, "watch: false", "watch: false, run_tests: true")
	_, err := a.Reload(t.Context())
	check.OK(t, err)
	m = check.Series(t, a.reg.all)
	if n, there := m["cellgate_rules_in_force"]; n != 0 || !there || m["cellgate_rules_last_reload_successful"] != 1 || m["cellgate_config_last_reload_successful"] != 1 ||
		m["cellgate_config_info{hash="+hash+"}"] != 0 || m["cellgate_config_last_reload_success_timestamp_seconds"] <= first["config"] {
		t.Errorf("after a reload: %v", m)
	}
}

// A reload that fails for another reason leaves the rules that it has read to the watch.
func TestRulesOfARefusedReloadAreNotForgotten(t *testing.T) {
	t.Parallel()
	a, dir, file := withRules(t)
	writeRules(t, dir, "better")
	check.Replace(t, file, `"127.0.0.1:0"}]`, `"127.0.0.1:0", tls: {cert: none.crt, key: none.key, client_ca: none.crt, client_auth: optional}}]`)
	if _, err := a.Reload(t.Context()); err == nil {
		t.Fatal("reloaded")
	}
	rulesAre(t, a, "good", true)
	lookAt(t, a, "better", true)
}

// A cancelled call changes no state: the next look examines the files.
func TestAbandonedCallDoesNotDegrade(t *testing.T) {
	t.Parallel()
	a, dir, _ := withRules(t)
	writeRules(t, dir, "better")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.rules.applyFiles(ctx, false, false); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	rulesAre(t, a, "good", true)
	lookAt(t, a, "better", true)
}
