//go:build bench

package bench

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

var profiles = flag.String("profiles", "", "keep CPU and heap profiles of the gateway in this folder")

// profileOf starts a CPU profile of the gateway, if -profiles is given; the returned function waits until it is
// written. Other servers have a nil gateway and no profile.
func profileOf(t *testing.T, g *harness.Gateway, name string, d time.Duration) (written func()) {
	t.Helper()
	if *profiles == "" || g == nil {
		return func() {}
	}
	file := profileFile(name)
	wait := profileTo(t, g, file, d)
	return func() {
		wait()
		fmt.Printf("profile: go tool pprof -top %s %s\n", harness.Binary(t), file)
	}
}

// profileTo starts a CPU profile of the gateway into a file; the returned function waits until it is written.
func profileTo(t *testing.T, g *harness.Gateway, file string, d time.Duration) (written func()) {
	t.Helper()
	operator := g.OperatorToken()
	done := make(chan error, 1)
	go func() {
		done <- fetchProfile(g, operator, fmt.Sprintf("profile?seconds=%d", max(1, int(d.Seconds()))), file)
	}()
	return func() {
		check.OK(t, <-done)
	}
}

// heapOf writes a heap profile of the gateway after a collection, if -profiles is given.
func heapOf(t *testing.T, g *harness.Gateway, name string) {
	t.Helper()
	if *profiles == "" {
		return
	}
	check.OK(t, fetchProfile(g, g.OperatorToken(), "heap?gc=1", profileFile(name)))
}

func profileFile(name string) string {
	return filepath.Join(*profiles, strings.NewReplacer(" ", "-", ",", "").Replace(name)+".pprof")
}

func fetchProfile(g *harness.Gateway, operator, what, file string) error {
	status, body, err := g.Get("/debug/pprof/"+what, operator)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("profile: %d %s", status, body)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	return os.WriteFile(file, body, 0o600)
}
