package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cellgate/cmd/cellgate/runfile"
	"cellgate/test/check"
)

// devProcess is `cellgate dev` as a process of its own.
type devProcess struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
	log bytes.Buffer
}

// startDev starts it in dir, with its data in dir/data, and waits until it serves.
func startDev(t *testing.T, dir string) *devProcess {
	t.Helper()
	out, err := os.Create(filepath.Join(dir, "banner")) //nolint:gosec // a test's file
	check.OK(t, err)
	defer out.Close() //nolint:errcheck // the child has its own
	d := &devProcess{t: t, dir: dir}
	d.cmd = exec.Command("cellgate", "dev", "--data", "data", "--vehicles", "2", "--free-ports")
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = dir, out, &d.log
	check.OK(t, d.cmd.Start())
	t.Cleanup(func() {
		d.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", d.log.String())
		}
	})
	check.Within(d.t, check.Patience, "banner", func() error {
		banner, err := os.ReadFile(out.Name())
		if err == nil && !strings.Contains(string(banner), " status --data ") {
			err = errors.New("not complete")
		}
		return err
	})
	return d
}

// end sends a signal and waits for the end; a process that has ended is left alone.
func (d *devProcess) end(sig syscall.Signal) {
	if d.cmd.ProcessState == nil {
		_ = d.cmd.Process.Signal(sig)
		_ = d.cmd.Wait()
	}
}

// commands are the banner's, by what they do.
func (d *devProcess) commands() (does, lines []string) {
	d.t.Helper()
	banner := check.Read(d.t, filepath.Join(d.dir, "banner"))
	all := strings.Split(string(banner), "\n")
	for i, line := range all {
		if text, ok := strings.CutPrefix(line, "# "); ok && i+1 < len(all) {
			does, lines = append(does, text), append(lines, all[i+1])
		}
	}
	return does, lines
}

// shell runs one line as a user would paste it.
func (d *devProcess) shell(line string) (string, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), check.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line) //nolint:gosec // the banner's own commands
	cmd.Dir = d.dir
	out, err := cmd.CombinedOutput()
	if err == nil && !strings.HasPrefix(line, "mosquitto_pub") && strings.TrimSpace(string(out)) == "" {
		err = errors.New("it printed nothing")
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return string(out), err
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// runAll runs every command whose program is installed until it has worked once.
func (d *devProcess) runAll() {
	d.t.Helper()
	does, lines := d.commands()
	if len(lines) < 8 {
		d.t.Fatalf("only %d commands in the banner", len(lines))
	}
	_, rest, _ := strings.Cut(lines[0], " -t v1/") // the first one publishes
	vin, _, _ := strings.Cut(rest, "/")
	for i, line := range lines {
		program, _, _ := strings.Cut(line, " ")
		if strings.Contains(line, vin) && !installed("mosquitto_pub") {
			program = "mosquitto_pub" // there is nothing to look at without it
		}
		if !installed(program) {
			d.t.Logf("not tried, %s is not installed: %s", program, does[i])
			continue
		}
		check.Within(d.t, check.Patience, does[i], func() error {
			_, err := d.shell(line)
			return err
		})
	}
}

// The banner's commands work as printed; after kill -9 a second start continues with the data of the first, and they
// work again.
func TestBannerCommandsWorkAsPrinted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := startDev(t, dir)
	first.runAll()
	first.end(syscall.SIGKILL)
	if f, err := runfile.Read(filepath.Join(dir, "data")); err != nil || f != nil {
		t.Errorf("the run file of a killed gateway counts: %+v, %v", f, err)
	}
	second := startDev(t, dir)
	second.runAll()
	if status, err := second.shell("cellgate status --data data"); err != nil || strings.Contains(status, " NO\n") {
		t.Errorf("%v: %s", err, status)
	}
	second.end(syscall.SIGINT)
	if code := second.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d after Ctrl-C", code)
	}
}
