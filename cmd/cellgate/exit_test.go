package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args string
		want int
	}{
		{"version", exitDone},
		{"--help", exitDone},
		{"nonsense", exitUsage},
		{"version --loud", exitUsage},
		{"run", exitUsage},
		{"token issue", exitUsage},
		{"token issue --vin A --service b", exitUsage},
		{"token issue --vin A --scope telemetry:read --data /nonexistent", exitUsage},
		{"config check /nonexistent.yaml", exitNo},
		{"run --config /nonexistent.yaml", exitNo},
		{"status --data /nonexistent", exitNo},
		{"status --api http://127.0.0.1:1", exitUsage},
		{"status --api nonsense --token x", exitUsage},
		{"command send --vin A --name b --payload {", exitUsage},
		{"command send --vin A --name b --ttl -1s", exitUsage},
		{"command send --vin A --name b --wait 10", exitUsage},
		{"vehicles --limit 0", exitUsage},
		{"vehicles a b", exitUsage},
		{"drain --endpoint nonsense", exitUsage},
		{"token issue --vin=", exitUsage},
		{"token issue --vins /nonexistent", exitNo},
		{"fleet --broker nonsense --no-tokens", exitUsage},
		{"fleet --vehicles 0", exitUsage},
		{"fleet --qos 2", exitUsage},
		{"fleet --broker 127.0.0.1:1 --mqtt 2", exitUsage},
		{"journal stat /nonexistent", exitNo},
		{"rules check /nonexistent", exitNo},
		{"repair", exitUsage},
		{"repair /nonexistent", exitNo},
		{"repair /dev/null", exitNo},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			var out, errOut bytes.Buffer
			if got := run(strings.Fields(tc.args), nil, strings.NewReader(""), &out, &errOut); got != tc.want {
				t.Errorf("exit %d, want %d; stderr: %s", got, tc.want, errOut.String())
			}
			if tc.want != exitDone && !strings.HasPrefix(errOut.String(), "cellgate: ") {
				t.Errorf("stderr does not begin with the program's name: %q", errOut.String())
			}
		})
	}
}

// Every command that does something has an example, and every command has a one-line description.
func TestEveryCommandHasHelpAndExample(t *testing.T) {
	t.Parallel()
	seen := 0
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			return
		}
		seen++
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s: short %q, example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		for _, line := range strings.Split(cmd.Example, "\n") {
			if !strings.Contains(line, "cellgate ") {
				t.Errorf("%s: the example %q is not a command line", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(newRoot(&cli{}))
	if seen < 25 {
		t.Errorf("only %d commands seen", seen)
	}
}
