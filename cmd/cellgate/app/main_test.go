package app

import (
	"testing"

	"go.uber.org/goleak"
)

// A stopped gateway leaves no goroutine, except for one that lumberjack never ends (its issue 56). The tests' own HTTP
// client keeps connections.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}
