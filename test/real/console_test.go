//go:build real

package real

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestConsoleInABrowser does what a new user does with `cellgate dev` and its console, in Chromium: film.mjs. A Prometheus with the
// alarms of deploy/ scrapes the gateway meanwhile. With CONSOLE_SHOTS it leaves pictures of every page in that folder.
func TestConsoleInABrowser(t *testing.T) {
	t.Parallel()
	cache, err := os.UserCacheDir()
	check.OK(t, err)
	modules := filepath.Join(cache, "cellgate", "console", "node_modules")
	for _, need := range []string{"/usr/bin/chromium", filepath.Join(modules, "axe-core")} {
		if _, err := os.Stat(need); err != nil {
			t.Skipf("%s is not installed: make tools-real installs it", need)
		}
	}
	dir := t.TempDir()
	banner, err := os.Create(filepath.Join(dir, "banner"))
	check.OK(t, err)
	defer banner.Close() //nolint:errcheck // the process has its own
	var log bytes.Buffer
	dev := exec.Command(harness.Binary(t), "dev", "--data", filepath.Join(dir, "data"), "--vehicles", "20", "--rate", "1", "--free-ports")
	dev.Stdout, dev.Stderr = banner, &log
	check.OK(t, dev.Start())
	t.Cleanup(func() {
		_ = dev.Process.Kill()
		_ = dev.Wait()
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", log.String()[max(0, log.Len()-20_000):])
		}
	})
	console := regexp.MustCompile(`console +(http\S+)/`)
	var url string
	check.Within(t, check.Patience, "the banner", func() error {
		text, err := os.ReadFile(banner.Name())
		if found := console.FindSubmatch(text); err == nil && found != nil && strings.Contains(string(text), " status --data ") {
			url = string(found[1])
			return nil
		}
		return os.ErrNotExist
	})
	token := func(args ...string) string {
		out, err := exec.Command(harness.Binary(t), append([]string{"token", "issue", "--data", filepath.Join(dir, "data")}, args...)...).Output()
		check.OK(t, err)
		return strings.TrimSpace(string(out))
	}
	w := &observed{t: t, http: strings.TrimPrefix(url, "http://"), fired: map[string]bool{}}
	w.prometheus()
	film := exec.CommandContext(t.Context(), "node", filepath.Join("console", "film.mjs"))
	film.Env = append(os.Environ(), "MODULES="+modules, "URL="+url, "PROMETHEUS="+w.promURL, "SHOTS="+os.Getenv("CONSOLE_SHOTS"),
		"TOKEN="+token("--operator", "ada"), "READER="+token("--operator", "bob", "--scope", "telemetry:read,command:read"))
	if out, err := film.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
