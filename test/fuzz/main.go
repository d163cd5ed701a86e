// Command fuzz runs every fuzz target of the module, one after the other, each for a fixed time: those of the
// frame scanner, which runs before authentication, for longer than the others.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"
)

func main() {
	each := flag.Duration("time", 10*time.Second, "how long to fuzz each target")
	wire := flag.Duration("wire", 30*time.Second, "how long to fuzz each target of broker/frame, which judges what anybody may send")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *each, *wire); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

type target struct{ pkg, name string }

func run(ctx context.Context, others, wire time.Duration) error {
	targets, err := list(ctx)
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return errors.New("no fuzz target was found")
	}
	for i, t := range targets {
		each := others
		if t.pkg == "./broker/frame" {
			each = wire
		}
		fmt.Printf("==> fuzz %d/%d %s %s for %v\n", i+1, len(targets), t.pkg, t.name, each)
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(), "-fuzzminimizetime", "2s", t.pkg) //nolint:gosec // names from our own tree
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil && !onlyTheDeadline(t.name, out.String()) {
			return fmt.Errorf("%s %s: %w\n%s", t.pkg, t.name, err, out.String())
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		fmt.Println(lines[max(0, len(lines)-3)])
	}
	fmt.Printf("fuzz: %d passed, 0 failed\n", len(targets))
	return nil
}

// onlyTheDeadline reports whether a failed run found nothing and merely came to its end. The coordinator of Go before
// 1.27 sometimes takes the end of -fuzztime for a failure of the target (golang/go#75804: it compares the error with that
// of a context that the deadline has not reached yet). The line is then alone: an input that fails, a worker that
// hangs or dies, and a panic all say more.
func onlyTheDeadline(name, out string) bool {
	_, failure, found := strings.Cut(out, "--- FAIL: "+name+" (")
	lines := strings.Split(strings.TrimSpace(failure), "\n")
	return found && len(lines) >= 3 && strings.TrimSpace(lines[1]) == context.DeadlineExceeded.Error() && lines[2] == "FAIL" &&
		!strings.Contains(out, "Failing input") && !strings.Contains(out, "panic: ")
}

// list asks every package for its fuzz targets.
func list(ctx context.Context) ([]target, error) {
	grep := exec.CommandContext(ctx, "git", "grep", "-hlE", "^func Fuzz", "--", "*_test.go")
	out, err := grep.Output()
	if err != nil {
		return nil, fmt.Errorf("look for fuzz targets: %w", err)
	}
	var targets []target
	for _, file := range strings.Fields(string(out)) {
		text, err := os.ReadFile(file) //nolint:gosec // named by git
		if err != nil {
			return nil, err
		}
		pkg := "./" + file[:max(0, strings.LastIndexByte(file, '/'))]
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "func Fuzz"); ok {
				name, _, _ := strings.Cut(rest, "(")
				targets = append(targets, target{pkg, "Fuzz" + name})
			}
		}
	}
	return targets, nil
}
