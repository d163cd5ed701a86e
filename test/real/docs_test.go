//go:build real

package real

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cellgate/cmd/cellgate/runfile"
	"cellgate/test/check"
	"cellgate/test/harness"
)

// blocks returns a page's fenced blocks of a language, from a heading on.
func blocks(t *testing.T, page, language, from string) []string {
	t.Helper()
	text := check.Read(t, filepath.Join(harness.Root(), page))
	_, rest, ok := strings.Cut(string(text), from)
	if !ok {
		t.Fatalf("%s has no %q", page, from)
	}
	var found []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(rest, -1) {
		found = append(found, m[1])
	}
	if len(found) == 0 {
		t.Fatalf("%s has no block of %s", page, language)
	}
	return found
}

// tour is a running `cellgate dev`, in a folder in which the pages' commands work.
type tour struct {
	t   *testing.T
	dir string
	at  runfile.File
}

func startTour(t *testing.T) *tour {
	t.Helper()
	g := &tour{t: t, dir: t.TempDir()}
	check.OK(t, os.Mkdir(filepath.Join(g.dir, "bin"), 0o750))
	check.OK(t, os.Symlink(harness.Binary(t), filepath.Join(g.dir, "bin", "cellgate")))
	check.OK(t, os.Symlink(filepath.Join(harness.Root(), "configs"), filepath.Join(g.dir, "configs")))
	p := harness.StartProcess(t, "dev", g.dir, nil, "bin/cellgate", "dev", "--free-ports")
	check.Within(t, time.Minute, "run file", func() error {
		text, err := os.ReadFile(filepath.Join(g.dir, "data", "run.json"))
		if err == nil {
			err = json.Unmarshal(text, &g.at)
		}
		select {
		case <-p.Done():
			t.Fatal("dev has ended")
		default:
		}
		return err
	})
	return g
}

// run runs a block in a shell, with the variables that earlier blocks have set.
func (g *tour) run(block string, set []string) string {
	cmd := exec.CommandContext(g.t.Context(), "bash", "-c", strings.Join(set, "\n")+"\n"+g.here(block)) //nolint:gosec // the pages' own commands
	cmd.Dir = g.dir
	out, _ := cmd.CombinedOutput() // some blocks show a refusal
	return string(out)
}

// here replaces the addresses in the pages by this gateway's.
func (g *tour) here(text string) string {
	port := func(addr string) string {
		_, p, err := net.SplitHostPort(addr)
		check.OK(g.t, err)
		return p
	}
	return strings.NewReplacer(
		"-p 8883", "-p "+port(g.at.Listeners[0].Address), "http://127.0.0.1:8080", g.at.HTTP,
		"127.0.0.1:9092", g.at.Kafka[0], "127.0.0.1:9192", g.at.Central[0], "redis-cli ", "redis-cli -p "+port(g.at.Redis[0])+" ",
	).Replace(text)
}

// prints repeats each block until it prints the expected text, because messages take time to arrive.
func (g *tour) prints(all []string, want []string) {
	g.t.Helper()
	if len(all) != len(want) {
		g.t.Fatalf("%d blocks, %d expectations", len(all), len(want))
	}
	var set []string
	for i, block := range all {
		check.Within(g.t, time.Minute, "block "+strconv.Itoa(i+1), func() error {
			if out := g.run(block, set); !regexp.MustCompile("(?s)" + want[i]).MatchString(out) {
				return fmt.Errorf("\n%sprints\n%s\nwant %s", block, out, want[i])
			}
			return nil
		})
		set = append(set, regexp.MustCompile(`(?m)^[A-Z]+=.*$`).FindAllString(g.here(block), -1)...)
	}
}

func TestReadmeTour(t *testing.T) {
	t.Parallel()
	startTour(t).prints(blocks(t, "README.md", "sh", "## Five minutes"), []string{
		`^\s*$`,
		`LTESTEV13TA999999 .*"soc": 9.*vin=LTESTEV13TA999999.*soc\n9`,
		`LTESTEV13TA999999 .*LTESTEV13TA999999 .*src-cell`,
		`Not authorized.*Bad User Name or Password`,
		`state +succeeded`,
		`5 rules.*passed.*low-battery`,
		`serving.*journal.*kafka .*yes`,
		`configs/cell.yaml: valid.*listeners\[0\].tls.cert`,
	})
}

func TestRulesTour(t *testing.T) {
	t.Parallel()
	startTour(t).prints(blocks(t, "rules/README.md", "sh", "## Five minutes"), []string{
		`ok: 6 rules.*no findings`,
		`ok +one alert until the battery has cooled down.*passed, 0 failed`,
		`6 rules in force.*hot-battery.*LTESTEV13TA999999 \{"vin":"LTESTEV13TA999999","temp":71,`,
		`hot-battery: stopped at threshold: enter true since .*it has fired, and is not rearmed before exit is true`,
		`hot.rules.yaml:6:32: error\[R023\].*did you mean payload.temp\?.*6 rules in force.*the files are not in force: .*tmep`,
		`added +hot-battery.*hot-battery +enabled +1 +0 +1`,
	})
}

func TestServicesPage(t *testing.T) {
	t.Parallel()
	g := startTour(t)
	const page = "docs/services.md"
	g.prints(blocks(t, page, "sh", "## A token"), []string{
		`^\s*$`,
		`"state":"succeeded".*"state":"succeeded".*409`,
		`night-1.*"state":"queued"`,
		`^\s*$`,
	})
	token := g.cellgate("token", "issue", "--service", "unlock-app", "--scope", "command:send,command:read")
	python := filepath.Join(t.TempDir(), "send.py")
	check.OK(t, os.WriteFile(python, []byte(blocks(t, page, "python", "### Python")[0]), 0o600))
	program := filepath.Join(t.TempDir(), "send.go")
	check.OK(t, os.WriteFile(program, []byte(blocks(t, page, "go", "### Go")[0]), 0o600))
	for i, argv := range [][]string{{"python3", python}, {"go", "run", program}} {
		for vin, want := range map[string]string{"LTESTEV12TA000000": "200 succeeded", "LTESTEV1XTA009999": "200 cancelled"} {
			out, err := exec.CommandContext(t.Context(), argv[0], append(argv[1:], g.at.HTTP, token, vin, fmt.Sprintf("%s-%d", vin, i))...).CombinedOutput() //nolint:gosec // the page's own
			if err != nil || !strings.HasPrefix(string(out), want) {
				t.Errorf("%s to %s: %s %v, want %s", argv[0], vin, out, err, want)
			}
		}
	}
}

func (g *tour) cellgate(args ...string) string {
	g.t.Helper()
	cmd := exec.CommandContext(g.t.Context(), "bin/cellgate", args...) //nolint:gosec // tests' own
	cmd.Dir = g.dir
	out, err := cmd.Output()
	check.OK(g.t, err)
	return strings.TrimSpace(string(out))
}

// The client of docs/vehicles.md publishes, executes a command, refreshes its token in time, and resumes its session
// after the gateway was killed.
func TestVehiclesPage(t *testing.T) {
	t.Parallel()
	const vin = "LTESTEV13TA999999"
	g := harness.StartGateway(t, harness.Options{Kafka: harness.EmbeddedKafka(t), NoRules: true})
	client := filepath.Join(t.TempDir(), "vehicle.py")
	check.OK(t, os.WriteFile(client, []byte(blocks(t, "docs/vehicles.md", "python", "## A client")[0]), 0o600))
	host, port, err := net.SplitHostPort(g.MQTTS)
	check.OK(t, err)
	issue := fmt.Sprintf("%s token issue --config %s --vin %s --ttl 12s", harness.Binary(t), g.Config, vin)
	p := harness.StartProcess(t, "vehicle", t.TempDir(), nil, installed(t, "venv", "bin", "python"), client, vin, host, port, g.CAFile(), issue, "100000")
	log := func() string {
		text := check.Read(t, p.Log)
		return string(text)
	}
	executes := func(id string) {
		t.Helper()
		operator := g.OperatorToken()
		check.Within(t, time.Minute, id, func() error {
			status, answer, err := g.Do(http.MethodPost, "/v1/vehicles/"+vin+"/commands?wait=5s", operator, map[string]any{"id": id, "name": "unlock"})
			if err != nil || status != http.StatusOK || !bytes.Contains(answer, []byte(`"state":"succeeded"`)) {
				return fmt.Errorf("%d %s: %w", status, answer, errors.Join(err, errors.New("not succeeded")))
			}
			return nil
		})
	}
	published := func(n int) {
		t.Helper()
		check.Within(t, time.Minute, fmt.Sprint(n, " messages"), func() error {
			if have := strings.Count(log(), "on the cell's disk"); have < n {
				return fmt.Errorf("%d acknowledged", have)
			}
			return nil
		})
	}
	published(5)
	executes("first")
	published(100) // 20 s: its first token has expired
	if text := log(); strings.Contains(text, "disconnected") {
		t.Errorf("it did not refresh its token in time:\n%s", text)
	}
	g.Kill()
	g.Start()
	check.Within(t, time.Minute, "its return", func() error {
		if !strings.Contains(log(), "session present: True") {
			return errors.New("not yet")
		}
		return nil
	})
	executes("second")
	published(strings.Count(log(), "on the cell's disk") + 5)
}
