package dev

import (
	"testing"

	"go.uber.org/goleak"
)

// A stopped process leaves no goroutine, except for one that lumberjack never ends (its issue 56). The tests' own HTTP
// client keeps connections, and a test's MQTT client may still be closing.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}
