package app

import (
	"testing"

	"go.uber.org/goleak"
)

// A gateway that has stopped leaves no goroutine behind, but for one that lumberjack never ends (its issue
// 56). The tests' own HTTP client keeps connections.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		// kafka-go revives the pool of a client that was replaced while a request was about to use it.
		goleak.IgnoreAnyFunction("github.com/segmentio/kafka-go.(*connPool).discover"), goleak.IgnoreAnyFunction("github.com/segmentio/kafka-go.(*conn).run"))
}
