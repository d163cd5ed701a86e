package dev

import (
	"testing"

	"go.uber.org/goleak"
)

// What was started in this process is gone when it has stopped. lumberjack never ends one goroutine (its issue
// 56), the tests' own HTTP client keeps connections, and a test's MQTT client may still be closing.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}
