package harness

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/cmd/cellgate/fleet"
	"cellgate/test/check"
)

// Binary returns the path of the cellgate binary under test: $CELLGATE_BIN if set (the Makefile sets it), else one
// built from the working tree once per test process.
func Binary(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("CELLGATE_BIN"); bin != "" {
		return bin
	}
	bin, err := build()
	if err != nil {
		t.Fatalf("build cellgate: %v", err)
	}
	return bin
}

// build builds into the repository's bin folder, where each test process replaces the previous binary.
var build = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(Root(), "bin", "cellgate-test")
	own := fmt.Sprintf("%s-%d", bin, os.Getpid())
	cmd := exec.Command("go", "build", "-o", own, "./cmd/cellgate") //nolint:gosec // a name of our own
	cmd.Dir = Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return bin, os.Rename(own, bin)
})

// Root returns the repository's folder.
func Root() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", "..")
}

// Gateway is a `cellgate run` in its own process.
type Gateway struct {
	Dir    string // holds cell.yaml, rules, certificates and data
	Config string // path of cell.yaml

	MQTTS, MQTT, Lab, HTTP string // addresses of the listeners
	TokenAPI               string // with Options.VehicleCA

	*Process
	t           testing.TB
	env         []string
	binary      string
	descriptors int
}

// Options configure a gateway under test.
type Options struct {
	Kafka, Central *Kafka
	CentralMode    string // default at_least_once
	Redis          string // address; empty: an unused port
	// RedisSettings replaces the configuration's redis section, in YAML flow style.
	RedisSettings string
	// KafkaSettings are additional keys of the kafka section, in YAML flow style.
	KafkaSettings string
	// KeepTopics leaves the creation of topics to the test.
	KeepTopics bool
	// Rules is the folder that is copied as the rule set; empty: the sample rules.
	Rules string
	// NoRules starts with an explicitly empty rule set.
	NoRules bool
	// Node is the gateway's name in its cell; default gw-1.
	Node string
	// Several sets cell.gateways to several; gateways with the same Redis form a cell.
	Several bool
	// LabRole is the role of the listener without tokens; default vehicle.
	LabRole string
	// Listeners are additional entries of listeners, one line each in YAML flow style.
	Listeners []string
	// RuleSettings are additional keys of the rules section, in YAML flow style.
	RuleSettings string
	// Auth are additional keys of the auth section, in YAML flow style, such as "token_ttl: 1m".
	Auth string
	// VehicleCA verifies client certificates on the TLS listener, where they are optional, and on token_api, which is
	// off without it.
	VehicleCA *Authority
	// Extra is YAML appended to the configuration.
	Extra string
	Env   []string
	// Binary is the program to run; empty: the one under test.
	Binary string
	// Descriptors limits the file descriptors of the process; 0: the test's own limit.
	Descriptors int
}

// StartGateway writes a configuration, certificates and rules, and starts the gateway with them.
func StartGateway(t testing.TB, o Options) *Gateway {
	t.Helper()
	g := PrepareGateway(t, o)
	g.Start()
	return g
}

// PrepareGateway is StartGateway without starting the process.
func PrepareGateway(t testing.TB, o Options) *Gateway {
	t.Helper()
	dir := t.TempDir()
	g := &Gateway{
		Dir: dir, Config: filepath.Join(dir, "cell.yaml"), t: t, env: o.Env, binary: cmp.Or(o.Binary, Binary(t)), descriptors: o.Descriptors,
		MQTTS: FreeAddr(t), MQTT: FreeAddr(t), Lab: FreeAddr(t), HTTP: FreeAddr(t),
	}
	WriteCertificates(t, filepath.Join(dir, "tls"))
	if o.VehicleCA != nil {
		o.VehicleCA.write(t, filepath.Join(dir, "tls", "vehicles-ca.crt"))
		g.TokenAPI = FreeAddr(t)
	}
	rules := filepath.Join(dir, "rules")
	if o.NoRules {
		check.Write(t, filepath.Join(rules, "none.rules.yaml"), "rules: []\n")
	} else {
		from := o.Rules
		if from == "" {
			from = filepath.Join(Root(), "configs", "rules")
		}
		check.OK(t, os.CopyFS(rules, os.DirFS(from)))
	}
	WriteConfig(t, g.Config, g.settings(o))
	return g
}

func (g *Gateway) settings(o Options) string {
	addr := func(k *Kafka) string {
		if k == nil {
			return `"` + FreeAddr(g.t) + `"`
		}
		return `"` + strings.Join(k.Brokers, `", "`) + `"`
	}
	redis := o.Redis
	if redis == "" {
		redis = FreeAddr(g.t)
	}
	redis = cmp.Or(o.RedisSettings, fmt.Sprintf(`addresses: ["%s"]`, redis))
	clients := ""
	if o.VehicleCA != nil {
		clients = ", client_ca: tls/vehicles-ca.crt, client_auth: optional"
	}
	listeners := ""
	for _, l := range o.Listeners {
		listeners += "  - " + l + "\n"
	}
	several := ""
	if o.Several {
		check.OK(g.t, os.WriteFile(filepath.Join(g.Dir, "join.key"), []byte("0123456789abcdef"), 0o600))
		several = ", gateways: several, join_key: join.key"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `cell: {id: cell-test-01, region: test, node: %s%s}
data_dir: data
listeners:
  - {name: vehicles, address: "%s", tls: {cert: tls/server.crt, key: tls/server.key%s}}
  - {name: local, address: "%s"}
  - {name: lab, address: "%s", anonymous_role: %s}
%shttp: {address: "%s"}
kafka: {brokers: [%s], auto_create_topics: %t, %s}
redis: {%s}
auth: {leeway: 1s, %s}
rules: {path: rules, %s}
`, cmp.Or(o.Node, "gw-1"), several, g.MQTTS, clients, g.MQTT, g.Lab, cmp.Or(o.LabRole, "vehicle"), listeners, g.HTTP,
		addr(o.Kafka), !o.KeepTopics, o.KafkaSettings, redis, o.Auth, o.RuleSettings)
	if o.VehicleCA != nil {
		fmt.Fprintf(&b, "token_api: {address: \"%s\", tls: {cert: tls/server.crt, key: tls/server.key%s}}\n", g.TokenAPI, clients)
	}
	if o.Central != nil {
		mode := ""
		if o.CentralMode != "" { // older builds do not have the key
			mode = "mode: " + o.CentralMode + ", "
		}
		fmt.Fprintf(&b, "central: {%skafka: {brokers: [%s], auto_create_topics: true}}\n", mode, addr(o.Central))
	}
	b.WriteString(o.Extra)
	return b.String()
}

// Change replaces a piece of the configuration with text.
func (g *Gateway) Change(piece, text string) {
	g.t.Helper()
	check.Replace(g.t, g.Config, piece, text)
}

// Use makes the next Start run another binary on the same data.
func (g *Gateway) Use(binary string) { g.binary = binary }

// Launch starts the process, if needed again after Kill or Stop, without waiting for it to serve.
func (g *Gateway) Launch() {
	g.t.Helper()
	argv := []string{g.binary, "run", "--config", g.Config}
	if g.descriptors > 0 { // Go raises the soft limit to the hard one, so both are set
		argv = slices.Concat([]string{"/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, g.descriptors), "sh"}, argv)
	}
	g.Process = StartProcess(g.t, "cellgate", g.Dir, g.env, argv...)
}

// Start launches the gateway and waits until it serves.
func (g *Gateway) Start() {
	g.t.Helper()
	g.Launch()
	check.Within(g.t, check.Patience, "gateway ready", func() error {
		select {
		case <-g.Done():
			g.t.Fatalf("the gateway ended while starting:\n%s", g.Tail(40))
		default:
		}
		status, body, err := g.Get("/readyz", "")
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("readyz %d: %s", status, body)
		}
		return nil
	})
}

// Fleet starts a simulated fleet against the gateway.
func (g *Gateway) Fleet(name string, args ...string) *Process {
	g.t.Helper()
	argv := append([]string{Binary(g.t), "fleet", "--config", g.Config}, args...)
	return StartProcess(g.t, name, g.Dir, nil, argv...)
}

// EndFleet interrupts a fleet that was started with --json and returns its report.
func EndFleet(t testing.TB, p *Process) fleet.Report {
	t.Helper()
	if err := p.Stop(time.Minute); err != nil {
		t.Fatalf("fleet: %v\n%s", err, p.Tail(20))
	}
	b := check.Read(t, p.Log)
	return FleetReport(t, string(b))
}

// FleetReport returns the final report in the output of `cellgate fleet --json`.
func FleetReport(t testing.TB, printed string) (r fleet.Report) {
	t.Helper()
	_, last, found := strings.Cut("\n"+printed, "\n{")
	if err := json.Unmarshal([]byte("{"+last), &r); err != nil || !found {
		t.Fatalf("the report of a fleet: %v\n%s", err, printed)
	}
	return r
}

// Cellgate runs a subcommand and returns its trimmed standard output. It fails the test if the command fails.
func (g *Gateway) Cellgate(args ...string) string {
	g.t.Helper()
	out, err := RunCellgate(g.t, g.Dir, args...)
	if err != nil {
		g.t.Fatalf("cellgate %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out)
}

// RunCellgate runs a subcommand in dir. The error includes its stderr.
func RunCellgate(t testing.TB, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Binary(t), args...) //nolint:gosec // the tests decide what runs
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// VehicleToken issues a token for a VIN with the gateway's keys.
func (g *Gateway) VehicleToken(vin string, more ...string) string {
	g.t.Helper()
	return g.Cellgate(append([]string{"token", "issue", "--config", g.Config, "--vin", vin}, more...)...)
}

// OperatorToken issues a token with all scopes of the HTTP API that outlives the longest test.
func (g *Gateway) OperatorToken() string {
	g.t.Helper()
	return g.Cellgate("token", "issue", "--config", g.Config, "--operator", "tester", "--ttl", "12h", "--scope",
		"telemetry:read,command:send,command:read,vehicle:admin,rules:admin,token:issue")
}

// Get sends a GET to the HTTP API; token may be empty.
func (g *Gateway) Get(path, token string) (status int, body []byte, err error) {
	return g.Do(http.MethodGet, path, token, nil)
}

// Do calls the HTTP API with a JSON body (nil for none).
func (g *Gateway) Do(method, path, token string, body any) (status int, answer []byte, err error) {
	status, _, answer, err = Call(g.t.Context(), method, "http://"+g.HTTP+path, token, body)
	return status, answer, err
}

// CAFile returns the path of the authority of the gateway's server certificate.
func (g *Gateway) CAFile() string { return filepath.Join(g.Dir, "tls", "ca.crt") }

// ClientTLS returns a TLS configuration that trusts the gateway.
func (g *Gateway) ClientTLS() *tls.Config {
	g.t.Helper()
	pem := check.Read(g.t, g.CAFile())
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, ServerName: "localhost"}
}

// SinkLedger is the entry of one sink in GET /v1/ledger.
type SinkLedger struct {
	Sink         string           `json:"sink"`
	Received     int64            `json:"received"`
	Delivered    int64            `json:"delivered"`
	Filtered     int64            `json:"filtered"`
	DeadLettered int64            `json:"dead_lettered"`
	Dropped      map[string]int64 `json:"dropped"`
	Pending      int64            `json:"pending"`
	Unevaluated  int64            `json:"unevaluated"` // part of Pending
	Balanced     bool             `json:"balanced"`
}

// Ledger returns the loss ledger by sink.
func (g *Gateway) Ledger(operator string) (map[string]SinkLedger, error) {
	status, body, err := g.Get("/v1/ledger", operator)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("ledger: %d %s", status, body)
	}
	var answer struct {
		Sinks []SinkLedger `json:"sinks"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%w: %s", err, body)
	}
	lines := map[string]SinkLedger{}
	for _, s := range answer.Sinks {
		lines[s.Sink] = s
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("no sink in the ledger: %s", body)
	}
	return lines, nil
}

// Settled returns nil if no sink has pending messages and every entry of the ledger balances.
func (g *Gateway) Settled(operator string) error {
	lines, err := g.Ledger(operator)
	if err != nil {
		return err
	}
	for name, s := range lines {
		var dropped int64
		for _, n := range s.Dropped {
			dropped += n
		}
		if s.Pending != 0 || s.Received != s.Delivered+s.Filtered+s.DeadLettered+dropped {
			return fmt.Errorf("%s: %+v", name, s)
		}
	}
	return nil
}
