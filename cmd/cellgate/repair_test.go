package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cellgate/cmd/cellgate/repair"
	"cellgate/test/check"
)

// repair shows and changes nothing, does it with --yes, and then has nothing to do.
func TestRepair(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state := filepath.Join(dir, "state.db")
	check.OK(t, os.WriteFile(state, []byte("no database"), 0o600))
	cellgate := func(want int, args ...string) string {
		t.Helper()
		var out, errOut bytes.Buffer
		if got := run(append([]string{"repair", dir}, args...), nil, strings.NewReader(""), &out, &errOut); got != want || errOut.Len() > 0 {
			t.Fatalf("%v: exit %d, want %d; stderr: %s", args, got, want, errOut.String())
		}
		return out.String()
	}
	text := cellgate(exitNo)
	for _, part := range []string{state, "remedy", "would be lost", "--yes"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	var r repair.Report
	if err := json.Unmarshal([]byte(cellgate(exitNo, "--json")), &r); err != nil || r.Repaired || len(r.Findings) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := os.Stat(state); err != nil {
		t.Fatalf("a look has changed something: %v", err)
	}
	if err := json.Unmarshal([]byte(cellgate(exitDone, "--json", "--yes")), &r); err != nil || !r.Repaired {
		t.Fatalf("%+v, %v", r, err)
	}
	if b, err := os.ReadFile(filepath.Join(r.Backup, "state.db")); err != nil || string(b) != "no database" {
		t.Fatalf("not kept: %q, %v", b, err)
	}
	if text := cellgate(exitDone); !strings.Contains(text, "nothing") {
		t.Error(text)
	}
}
