package app

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"cellgate/broker/clock"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
	"cellgate/test/check"
)

// A gateway whose state.db was deleted acknowledges nothing more, and ends; everything acknowledged is there after a
// restart.
func TestADeletedStateFile(t *testing.T) {
	t.Parallel()
	file := write(t, t.TempDir(), "")
	check.OK(t, os.CopyFS(filepath.Join(filepath.Dir(file), "rules"), os.DirFS("../../../configs/rules")))
	cfg, err := configs.Load(file)
	check.OK(t, err)
	a, err := started(t.Context(), cfg, &check.Log{}, clock.System())
	check.OK(t, err)
	defer end(a)
	const commands = "/v1/vehicles/LTEST000000000001/commands"
	if status := post(t, a, commands, `{"id":"before","name":"horn","payload":{},"ttl":"1h"}`); status != http.StatusAccepted {
		t.Fatalf("status %d", status)
	}
	check.OK(t, os.Remove(filepath.Join(string(cfg.DataDir), "state.db")))
	for range 3 {
		if status := post(t, a, commands, `{"name":"horn","payload":{},"ttl":"1h"}`); status != http.StatusServiceUnavailable {
			t.Fatalf("status %d without a state file", status)
		}
	}
	if err := <-a.Fatal(); !errors.Is(err, statefile.ErrGone) {
		t.Fatal(err)
	}
	// A copy, as another process would find it: the locks are this one's.
	again := t.TempDir()
	new(dataFolder).copyTo(t, filepath.Join(again, "state"), string(cfg.DataDir))
	check.OK(t, os.CopyFS(filepath.Join(again, "rules"), os.DirFS("../../../configs/rules")))
	b, _ := boot(t, write(t, again, ""))
	if c, err := b.commands.Get(t.Context(), "LTEST000000000001", "before"); err != nil || c.State == "" {
		t.Errorf("%+v, %v", c, err)
	}
}
