package harness

import (
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// EmbeddedRedis starts the Redis-protocol server that `cellgate dev` embeds, inside the test's process.
func EmbeddedRedis(t testing.TB) string {
	t.Helper()
	return miniredis.RunT(t).Addr()
}

// Redis starts Debian's redis-server on a free port with nothing kept on disk.
func Redis(t testing.TB) (addr string, p *Process) {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("redis-server is missing (make test-real installs it): %v", err)
	}
	addr = FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	p = StartProcess(t, "redis", t.TempDir(), nil, bin, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	AwaitTCP(t, addr, 10*time.Second, p)
	return addr, p
}
