package auth

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain checks that Close ends every goroutine. Lumberjack's own cannot be ended.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"))
}
