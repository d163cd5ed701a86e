package dev

import (
	"testing"

	"go.uber.org/goleak"
)

// What was started in this process is gone when it has stopped. lumberjack never ends one goroutine (its issue
// 56), the tests' own HTTP client keeps connections, and a test's MQTT client may still be closing.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		// kafka-go revives the pool of a client that was replaced while a request was about to use it.
		goleak.IgnoreAnyFunction("github.com/segmentio/kafka-go.(*connPool).discover"), goleak.IgnoreAnyFunction("github.com/segmentio/kafka-go.(*conn).run"))
}
