package broker

import (
	"testing"

	"go.uber.org/goleak"
)

// Nothing that a test starts may be left when all have ended.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
