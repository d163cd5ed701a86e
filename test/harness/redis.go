package harness

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// EmbeddedRedis starts the Redis server that `cellgate dev` embeds in the test's process.
func EmbeddedRedis(t testing.TB) string {
	t.Helper()
	return miniredis.RunT(t).Addr()
}

// Redis starts a redis-server on a free port without persistence.
func Redis(t testing.TB) (addr string, p *Process) {
	t.Helper()
	n := newRedisNode(t, "--save", "", "--appendonly", "no")
	n.Restart()
	return n.Addr, n.Process
}

// RedisNode is one redis-server that can be restarted with its address and data.
type RedisNode struct {
	Addr string
	*Process

	t    testing.TB
	dir  string
	args []string
}

// DurableRedis starts a redis-server with an append-only file, so that kill -9 loses nothing.
func DurableRedis(t testing.TB) *RedisNode {
	t.Helper()
	n := newRedisNode(t, "--save", "", "--appendonly", "yes")
	n.Restart()
	return n
}

func newRedisNode(t testing.TB, args ...string) *RedisNode {
	t.Helper()
	return &RedisNode{Addr: FreeAddr(t), t: t, dir: t.TempDir(), args: args}
}

// Dir returns the server's data folder.
func (n *RedisNode) Dir() string { return n.dir }

// Restart starts the server, if needed again after Kill or Stop, and waits until it listens.
func (n *RedisNode) Restart() {
	n.t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		n.t.Fatalf("redis-server is missing (make test-real installs it): %v", err)
	}
	_, port, _ := net.SplitHostPort(n.Addr)
	argv := append([]string{bin, "--port", port, "--bind", "127.0.0.1", "--dir", n.dir}, n.args...)
	n.Process = StartProcess(n.t, "redis", n.dir, nil, argv...)
	AwaitTCP(n.t, n.Addr, 10*time.Second, n.Process)
}

// Configure sets a parameter of the running server.
func (n *RedisNode) Configure(name, value string) {
	n.t.Helper()
	if out, err := AskRedis(n.t, n.Addr, "CONFIG", "SET", name, value); err != nil {
		n.t.Fatalf("%v\n%s", err, out)
	}
}

// AskRedis runs redis-cli against the server at addr.
func AskRedis(t testing.TB, addr string, args ...string) (string, error) {
	host, port, _ := net.SplitHostPort(addr)
	out, err := exec.CommandContext(t.Context(), "redis-cli", append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput() //nolint:gosec // the tests decide what runs
	if err != nil {
		return "", fmt.Errorf("redis-cli %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
