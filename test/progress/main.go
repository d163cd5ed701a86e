// Command progress passes on the output of `go test -v` as it comes, without the noise: a line when a test
// begins, its result with the time it took, and everything a failing test printed. Its exit status is 1
// when a test failed or none ran, so that a pipe does not hide a failure.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "progress:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	passed, failed := 0, 0
	for lines.Scan() {
		line := lines.Text()
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(trimmed, "--- PASS"), strings.HasPrefix(trimmed, "--- SKIP"):
			passed++
		case strings.HasPrefix(trimmed, "--- FAIL"), strings.HasPrefix(line, "FAIL"), strings.HasPrefix(line, "panic:"):
			failed++
		case strings.HasPrefix(line, "=== PAUSE"), strings.HasPrefix(line, "=== CONT"), strings.HasPrefix(line, "=== NAME"):
			continue
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	switch {
	case lines.Err() != nil:
		return lines.Err()
	case failed > 0:
		return fmt.Errorf("%d failures", failed)
	case passed == 0:
		return fmt.Errorf("no test ran")
	}
	return nil
}
