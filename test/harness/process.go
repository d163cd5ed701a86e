package harness

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cellgate/test/check"
)

// Process is a program started by a test. Its output goes to a file that is shown if the test fails.
type Process struct {
	Name string
	Log  string // path of the file with its stdout and stderr

	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// StartProcess runs a program until it is stopped or the test ends.
func StartProcess(t testing.TB, name, dir string, env []string, argv ...string) *Process {
	t.Helper()
	p := &Process{Name: name, Log: filepath.Join(dir, name+".log"), t: t, done: make(chan struct{})}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	p.cmd = exec.Command(argv[0], argv[1:]...) //nolint:gosec // the tests decide what runs
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.Env = append(os.Environ(), env...)
	// The child dies with the test process, even if that is killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	_ = out.Close()
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("last lines of %s:\n%s", name, p.Tail(40))
		}
	})
	return p
}

// PID returns the process identifier.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill sends SIGKILL and waits for the process to end. It does nothing if the process has ended.
func (p *Process) Kill() { p.signalAndWait(syscall.SIGKILL, check.Patience) }

// Stop terminates the process, waits up to limit and returns how it ended.
func (p *Process) Stop(limit time.Duration) error {
	p.t.Helper()
	if !p.signalAndWait(syscall.SIGTERM, limit) {
		p.Kill()
		return fmt.Errorf("%s had not ended %v after SIGTERM", p.Name, limit)
	}
	return p.err
}

// Signal sends a signal, such as SIGSTOP, SIGCONT or SIGHUP.
func (p *Process) Signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("%s: %v", p.Name, err)
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

func (p *Process) signalAndWait(sig os.Signal, limit time.Duration) bool {
	select {
	case <-p.done:
		return true
	default:
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// Tail returns the last n lines of the process's output.
func (p *Process) Tail(n int) string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// OwnCPU returns the processor time of the test process, which in a benchmark is the load generator.
func OwnCPU(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	check.OK(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// CPU returns the user and system time that the process has used.
func (p *Process) CPU() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses and may hold anything (proc(5)).
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("short /proc/PID/stat")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// RSS returns the resident memory in bytes.
func (p *Process) RSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID()))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, errors.New("short /proc/PID/statm")
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// LimitDescriptors sets the descriptor limit of the running process and returns the previous one.
func (p *Process) LimitDescriptors(n uint64) (before uint64) {
	p.t.Helper()
	var old unix.Rlimit
	check.OK(p.t, unix.Prlimit(p.PID(), unix.RLIMIT_NOFILE, nil, &old))
	limit := unix.Rlimit{Cur: n, Max: old.Max}
	check.OK(p.t, unix.Prlimit(p.PID(), unix.RLIMIT_NOFILE, &limit, nil))
	return old.Cur
}

// Server ports are below the range of ephemeral ports. Otherwise, with thousands of outgoing connections, one of them
// may take a free port before the server listens on it.
const firstPort, lastPort = 10_000, 32_767

// reserved are the ports that this process has allocated.
var reserved sync.Map

// FreePort returns an unused loopback TCP port. No other test of this machine gets it before this test ends.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		release, ok := reserve(port)
		if !ok {
			continue
		}
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			_ = l.Close()
			t.Cleanup(release)
			return port
		}
		release()
	}
	t.Fatal("no free port")
	return 0
}

// reserve reserves a port across processes with an abstract socket name. It needs no file and ends with the process;
// Linux only.
func reserve(port int) (release func(), ok bool) {
	if _, given := reserved.LoadOrStore(port, true); given {
		return nil, false
	}
	free := func() { reserved.Delete(port) }
	if runtime.GOOS != "linux" {
		return free, true
	}
	l, err := net.Listen("unix", fmt.Sprintf("@cellgate-test-port-%d", port))
	if err != nil {
		free()
		return nil, false
	}
	return func() { _ = l.Close(); free() }, true
}

// FreeAddr returns 127.0.0.1 with a free port.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
}

// AwaitTCP waits until something accepts connections at the address.
func AwaitTCP(t testing.TB, addr string, limit time.Duration, p *Process) {
	t.Helper()
	check.Within(t, limit, "listening at "+addr, func() error {
		select {
		case <-p.Done():
			t.Fatalf("%s ended before it listened at %s:\n%s", p.Name, addr, p.Tail(30))
		default:
		}
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}
