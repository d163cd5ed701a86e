package app

import (
	"path/filepath"
	"testing"

	"cellgate/test/check"
)

// writeRules replaces the only rule file of the gateway whose configuration is in dir.
func writeRules(t *testing.T, dir, id string) {
	t.Helper()
	text := "rules:\n  - {id: " + id + ", from: [\"v1/+/up/telemetry\"], to: [{kafka: {topic: t}}]}\n"
	check.Write(t, filepath.Join(dir, "rules", "a.rules.yaml"), text)
}

// rulesAre checks that the rule with this id is in force, and whether the files agree.
func rulesAre(t *testing.T, a *App, id string, fromFiles bool) {
	t.Helper()
	s := a.rules.state()
	if len(s.Rules) != 1 || s.Rules[0].ID != id || s.Broken == fromFiles || (s.Error == "") != fromFiles {
		t.Errorf("rules %+v, files not in force: %t (%s); want %s, from the files: %t", s.Rules, s.Broken, s.Error, id, fromFiles)
	}
}

// withRules runs a gateway with the single rule good.
func withRules(t *testing.T) (a *App, dir, file string) {
	t.Helper()
	dir = t.TempDir()
	writeRules(t, dir, "good")
	file = write(t, dir, "")
	a, _ = boot(t, file)
	return a, dir, file
}

// lookAt has the gateway read its files, then calls rulesAre.
func lookAt(t *testing.T, a *App, id string, fromFiles bool) {
	t.Helper()
	a.rules.look(t.Context())
	rulesAre(t, a, id, fromFiles)
}

// TestRollbackLasts checks that after a rollback the files are reported as not in force, also after a restart, until
// the files change or a reload is requested.
func TestRollbackLasts(t *testing.T) {
	t.Parallel()
	a, dir, file := withRules(t)
	writeRules(t, dir, "bad")
	check.OK(t, a.rules.applyFiles(t.Context(), false, false))
	rulesAre(t, a, "bad", true)
	check.OK(t, a.rules.rollback(t.Context(), ""))
	rulesAre(t, a, "good", false)
	lookAt(t, a, "good", false)
	halt(t, a)

	a, _ = boot(t, file)
	rulesAre(t, a, "good", false)
	lookAt(t, a, "good", false)
	halt(t, a)

	writeRules(t, dir, "better") // while the gateway is down
	a, _ = boot(t, file)
	rulesAre(t, a, "better", true)
	check.OK(t, a.rules.rollback(t.Context(), ""))
	rulesAre(t, a, "good", false)
	_, err := a.Reload(t.Context())
	check.OK(t, err)
	rulesAre(t, a, "better", true)
	halt(t, a)

	a, _ = boot(t, file) // the reload has ended the rollback permanently
	rulesAre(t, a, "better", true)
}
