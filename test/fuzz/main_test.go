package main

import "testing"

const progress = `fuzz: elapsed: 9s, execs: 73907 (4268/sec), new interesting: 22 (total: 154)
fuzz: elapsed: 10s, execs: 89069 (14537/sec), new interesting: 25 (total: 157)
`

// The texts are those of go test -fuzz, Go 1.26.
func TestOnlyTheDeadline(t *testing.T) {
	t.Parallel()
	const tail = "FAIL\nexit status 1\nFAIL\tcellgate/auth\t10.071s\n"
	for _, c := range []struct {
		name, out string
		want      bool
	}{
		{"the end of the time", progress + "--- FAIL: FuzzA (10.06s)\n    context deadline exceeded\n" + tail, true},
		{"an input that fails", progress + "--- FAIL: FuzzA (1.06s)\n    --- FAIL: FuzzA (0.00s)\n        a_test.go:9: wrong\n    \n" +
			"    Failing input written to testdata/fuzz/FuzzA/58\n    To re-run:\n    go test -run=FuzzA/58\n" + tail, false},
		{"an input that fails with a deadline", progress + "--- FAIL: FuzzA (1.06s)\n    --- FAIL: FuzzA (0.00s)\n" +
			"        a_test.go:9: context deadline exceeded\n    \n    Failing input written to testdata/fuzz/FuzzA/58\n" + tail, false},
		{"a hang", progress + "--- FAIL: FuzzA (10.06s)\n    fuzzing process hung or terminated unexpectedly: exit status 2\n" +
			"    Failing input written to testdata/fuzz/FuzzA/58\n" + tail, false},
		{"the deadline and more", progress + "--- FAIL: FuzzA (10.06s)\n    context deadline exceeded\n    open testdata: no space left\n" + tail, false},
		{"another target", progress + "--- FAIL: FuzzAB (10.06s)\n    context deadline exceeded\n" + tail, false},
		{"does not build", "# cellgate/auth\nauth/a.go:1:1: expected package\nFAIL\tcellgate/auth [build failed]\n", false},
		{"nothing", "", false},
	} {
		if got := onlyTheDeadline("FuzzA", c.out); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
