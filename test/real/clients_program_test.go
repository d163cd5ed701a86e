//go:build real

package real

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"cellgate/test/check"
)

// installed returns a path below the folder into which clients/install.sh installs.
func installed(t *testing.T, path ...string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	check.OK(t, err)
	file := filepath.Join(append([]string{cache, "cellgate", "clients"}, path...)...)
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v (make test-real installs it)", err)
	}
	return file
}

// programs runs the programs of one client's job, one at a time.
type programs struct {
	r   *running
	env []string

	mu    sync.Mutex // guards below
	now   *exec.Cmd
	input io.Closer
}

// run runs a program to its end and makes events of its output lines. Without input its standard input stays open until
// the client leaves.
func (p *programs) run(input io.Reader, parse func(line string) (event, bool), argv ...string) {
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:gosec // the tests decide what runs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), p.env...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = p.start(cmd, input)
	}
	if err != nil {
		p.r.record(event{Event: "failed", Why: err.Error()})
		return
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if e, ok := parse(lines.Text()); ok {
			p.r.record(e)
		}
	}
	if err := cmd.Wait(); err != nil {
		p.r.record(event{Event: "exit", Why: err.Error() + ": " + complaints.String()})
	}
}

func (p *programs) start(cmd *exec.Cmd, input io.Reader) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.input = cmd, io.NopCloser(nil)
	if cmd.Stdin = input; input == nil {
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		p.input = in
	}
	return cmd.Start()
}

func (p *programs) closeInput() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.input != nil {
		_ = p.input.Close()
	}
}

func (p *programs) signal(sig os.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil && p.now.Process != nil {
		_ = p.now.Process.Signal(sig)
	}
}

// begin runs work in the background until the test ends.
func (p *programs) begin(t *testing.T, work func()) *running {
	p.r.cut = func() { p.signal(syscall.SIGKILL) }
	go func() {
		defer p.r.end()
		work()
	}()
	t.Cleanup(p.r.cut)
	return p.r
}

func startPython(t *testing.T, j job) *running {
	t.Helper()
	return startScript(t, j, installed(t, "venv", "bin", "python"), "client.py")
}

func startNode(t *testing.T, j job) *running {
	t.Helper()
	return startScript(t, j, "node", "client.cjs", "NODE_PATH="+installed(t, "node", "node_modules"))
}

func startScript(t *testing.T, j job, interpreter, file string, env ...string) *running {
	t.Helper()
	j.Subscribe, j.Publish = append([]subscription{}, j.Subscribe...), append([]letter{}, j.Publish...) // never null
	line, err := json.Marshal(j)
	check.OK(t, err)
	p := &programs{r: newRunning(file), env: env}
	p.r.leave = p.closeInput
	return p.begin(t, func() { p.run(nil, parseJSON, interpreter, filepath.Join("clients", file), string(line)) })
}

func parseJSON(line string) (event, bool) {
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		return event{Event: "failed", Why: fmt.Sprintf("%v: %q", err, line)}, true
	}
	return e, true
}

// mosquitto does a job with mosquitto_pub and mosquitto_sub. Neither does both, so it publishes first, over connections
// of its own.
type mosquitto struct {
	*programs
	job
	silent   bool // mosquitto_pub runs, and mosquitto_sub follows: its connections are not reported
	connects int  // of the running program
	received int  // its PUBLISHes whose message it has not printed
	moved    bool // the server has ended the connection
}

func startMosquitto(t *testing.T, j job) *running {
	t.Helper()
	m := &mosquitto{programs: &programs{r: newRunning("mosquitto")}, job: j}
	m.r.leave = func() { m.signal(syscall.SIGTERM) }
	return m.begin(t, func() {
		m.once()
		if m.moved && m.Second != "" {
			m.Address = m.Second // neither program shows the Server Reference
			m.once()
		}
	})
}

// once does the job at one server.
func (m *mosquitto) once() {
	m.moved, m.silent = false, len(m.Subscribe) > 0
	for i := 0; i < len(m.Publish); {
		first := m.Publish[i]
		var lines strings.Builder
		for ; i < len(m.Publish) && m.Publish[i].Topic == first.Topic && m.Publish[i].QoS == first.QoS; i++ {
			lines.WriteString(m.Publish[i].Payload + "\n")
		}
		m.run(strings.NewReader(lines.String()), m.parse, m.command("mosquitto_pub", "-l", "-t", first.Topic, "-q", fmt.Sprint(first.QoS))...)
	}
	if len(m.Subscribe) == 0 {
		return
	}
	m.silent = false
	args := []string{"-F", "message %q %t %x", "-q", fmt.Sprint(m.Subscribe[0].QoS)}
	for _, s := range m.Subscribe {
		args = append(args, "-t", s.Filter)
	}
	if !m.Stay {
		args = append(args, "-E")
	}
	m.run(nil, m.parse, m.command("mosquitto_sub", args...)...)
}

// command returns a command line of either program; its output is line buffered.
func (m *mosquitto) command(name string, args ...string) []string {
	m.connects, m.received = 0, 0
	host, port, _ := net.SplitHostPort(m.Address)
	line := []string{"stdbuf", "-oL", name, "-d", "-h", host, "-p", port, "--cafile", m.CA, "-i", m.ClientID, "-u", m.User, "-P", m.Password}
	if m.Version == 5 {
		line = append(line, "-V", "5")
	} else {
		line = append(line, "-V", "311")
	}
	if !m.Clean && name == "mosquitto_sub" {
		line = append(line, "-c")
		if m.Version == 5 {
			line = append(line, "-x", "300")
		}
	}
	if m.Will != nil {
		line = append(line, "--will-topic", m.Will.Topic, "--will-payload", m.Will.Payload, "--will-qos", fmt.Sprint(m.Will.QoS))
	}
	return append(line, args...)
}

// parse reads what the programs print with -d, in the format of once.
func (m *mosquitto) parse(line string) (event, bool) {
	words := strings.Fields(strings.NewReplacer("(", " ", ")", " ", ",", " ", ": ", " ").Replace(strings.TrimPrefix(line, "Client "+m.ClientID+" ")))
	switch {
	case len(words) == 4 && words[0] == "message":
		// mosquitto_sub prints in its signal handler, which may repeat the last line.
		if m.received--; m.received < 0 {
			return event{}, false
		}
		payload, err := hex.DecodeString(words[3])
		if err != nil {
			return event{Event: "failed", Why: line}, true
		}
		return event{Event: "message", QoS: words[1][0] - '0', Topic: words[2], Payload: string(payload)}, true
	case len(words) < 2:
		return event{}, false
	case words[0] == "Subscribed": // mid, its number, the codes
		return event{Event: "subscribed", Codes: numbers(words[3:])}, true
	}
	switch words[0] + " " + words[1] {
	case "received PUBLISH":
		m.received++
	case "sending CONNECT":
		// It reconnects to the same server if its connection just ended, as always on 3.1.1.
		if m.connects++; m.connects > 1 {
			m.moved = true
			m.signal(syscall.SIGKILL)
			return event{Event: "ended"}, true
		}
	case "received CONNACK":
		if code := numbers(words[2:])[0]; code != 0 {
			return event{Event: "refused", Code: code}, true
		}
		return event{Event: "connected", Address: m.Address}, !m.silent
	case "sending PUBLISH":
		return event{Event: "published"}, words[3] == "q0"
	case "received PUBACK":
		return event{Event: "published", QoS: 1}, true
	case "received PUBCOMP":
		return event{Event: "published", QoS: 2}, true
	case "sending DISCONNECT":
		return event{Event: "left"}, !m.silent
	case "Received DISCONNECT":
		m.moved = true
		return event{Event: "ended", Code: numbers(words[2:])[0]}, true
	}
	return event{}, false
}

func numbers(words []string) []int {
	list := make([]int, 0, len(words))
	for _, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil {
			n = -1
		}
		list = append(list, n)
	}
	return list
}
