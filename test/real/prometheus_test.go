//go:build real

package real

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// withoutCause lists the alarms whose condition no test can cause within minutes; deploy/prometheus/alerts_test.yaml
// has all.
var withoutCause = map[string]string{
	"CellgateLedgerUnbalanced": "only a defect of the gateway does that",
	"CellgateFanoutLags":       "a subscriber that does not read does not hold the fan-out up",
	"CellgateClockStepped":     "the clock of the machine is everybody's",
	"CellgateSyncStopped":      "what the outbox loses in minutes is in the gateway's memory already; the tests of cmd/cellgate/app hold the metric",
	"CellgateRulesBeginAnew":   "it takes a vehicle that moves between two gateways",
	"CellgateNoticesMissed":    "it takes two gateways, and Redis away from one of them",
	"CellgateDescriptorsShort": "the gateway refuses clients before that",
}

// TestPrometheus has a real Prometheus scrape `cellgate dev` under faults, with the alarms and dashboards of deploy/:
// each alarm fires when a test causes its condition, and stops when that ends; each query of a dashboard has data. The
// alarms' times (for, offsets, ranges) are seconds here; their thresholds are those of the file.
func TestPrometheus(t *testing.T) {
	w := watched(t)
	w.calm("CellgateDegraded", "CellgateSinkLags", "CellgateDown", "CellgateSyncLags")
	traffic := w.traffic()
	w.fires("faulty rules and targets", "CellgateDestinationParked", "CellgateRuleErrors", "CellgateRuleHeld", "CellgateDeadLetters")
	w.refused()
	w.drained()
	w.centreAway()
	w.storesAway()
	traffic()
	w.hooksFail.Store(false)
	w.cellgate("rules", "lift", "held")
	w.stops("CellgateDestinationParked", "CellgateRuleErrors", "CellgateRuleHeld", "CellgateDeadLetters", "CellgateCommandsExpire", "CellgateMessagesDropped",
		"CellgateSinkLags", "CellgateCommandsLate", "CellgateJournalFilling", "CellgateDegraded")
	w.panels()
	w.damaged()
	w.allAlarms()
}

// observed is a `cellgate dev`, and the Prometheus that scrapes it.
type observed struct {
	t                         *testing.T
	data, mqtt, http, promURL string
	dev                       *harness.Process
	since                     time.Time
	hooksFail                 atomic.Bool
	fired                     map[string]bool
}

func watched(t *testing.T) *observed {
	t.Helper()
	w := &observed{t: t, data: t.TempDir(), mqtt: harness.FreeAddr(t), http: harness.FreeAddr(t), since: time.Now(), fired: map[string]bool{}}
	w.hooksFail.Store(true)
	hook := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/bad" && w.hooksFail.Load():
			rw.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/never":
			rw.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(hook.Close)
	config := fmt.Sprintf(`data_dir: ..
listeners:
  - {name: vehicles, address: "%s", tls: {}}
  - {name: local, address: "%s"}
http: {address: "%s"}
uplink: {journal: {segment_bytes: 1MiB, max_bytes: 32MiB, alarm_percent: 20}}
kafka: {brokers: ["%s"], auto_create_topics: true}
rules: {path: rules}
central: {kafka: {brokers: ["%s"], auto_create_topics: true}}
webhooks:
  good: {url: "%s/good", keys: ["0123456789abcdef0123456789abcdef"], private_networks: [127.0.0.0/8]}
  bad: {url: "%s/bad", keys: ["0123456789abcdef0123456789abcdef"], private_networks: [127.0.0.0/8]}
  never: {url: "%s/never", keys: ["0123456789abcdef0123456789abcdef"], private_networks: [127.0.0.0/8]}
`, harness.FreeAddr(t), w.mqtt, w.http, harness.FreeAddr(t), harness.FreeAddr(t), hook.URL, hook.URL, hook.URL)
	harness.WriteConfig(t, filepath.Join(w.data, "configs", "dev.yaml"), config)
	check.OK(t, os.CopyFS(filepath.Join(w.data, "configs", "rules"), os.DirFS(filepath.Join(harness.Root(), "configs", "rules"))))
	w.write("configs/rules/faulty.rules.yaml", `rules:
  - {id: errs, from: ["v1/+/up/event"], when: payload.n > 5, to: [{kafka: {topic: vehicle.alerts}}]}
  - {id: held, from: ["v1/+/up/event"], when: payload.n > 5, to: [{kafka: {topic: vehicle.alerts}}], limits: {errors: 1% per 10s then shadow}}
  - {id: hooks, from: ["v1/+/up/event"], to: [{webhook: {name: good}}, {webhook: {name: bad}}, {webhook: {name: never}}]}
`)
	w.start()
	w.prometheus()
	return w
}

func (w *observed) write(name, text string) {
	w.t.Helper()
	check.Write(w.t, filepath.Join(w.data, name), text)
}

// edit changes a file and returns a function that restores it.
func (w *observed) edit(name string, change func(string) string) (back func()) {
	w.t.Helper()
	text := check.Read(w.t, filepath.Join(w.data, name))
	w.write(name, change(string(text)))
	return func() { w.write(name, string(text)) }
}

func (w *observed) start() {
	w.t.Helper()
	w.dev = harness.StartProcess(w.t, "dev", w.t.TempDir(), nil, harness.Binary(w.t), "dev", "--data", w.data, "--vehicles", "10", "--rate", "1")
	check.Within(w.t, check.Patience, "the gateway serves", func() error {
		if status, _, body, err := harness.Call(w.t.Context(), "GET", "http://"+w.http+"/readyz", "", nil); err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		return nil
	})
}

// prometheus starts Prometheus with the files of deploy/.
func (w *observed) prometheus() {
	w.t.Helper()
	dir, address := w.t.TempDir(), harness.FreeAddr(w.t)
	alerts := check.Read(w.t, filepath.Join(harness.Root(), "deploy", "prometheus", "alerts.yaml"))
	for _, s := range []struct{ from, to string }{{`(?m)^ +for: .*\n`, ""}, {`\[1[05]m\]`, "[10s]"}, {`offset (1h|10m|15m)`, "offset 10s"}} {
		alerts = regexp.MustCompile(s.from).ReplaceAll(alerts, []byte(s.to))
	}
	check.OK(w.t, os.WriteFile(filepath.Join(dir, "alerts.yaml"), alerts, 0o600))
	check.OK(w.t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(fmt.Sprintf(`global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [alerts.yaml]
scrape_configs: [{job_name: cellgate, static_configs: [{targets: ["%s"]}]}]
`, w.http)), 0o600))
	harness.StartProcess(w.t, "prometheus", dir, nil, "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--enable-feature=native-histograms", "--log.level=warn")
	w.promURL = "http://" + address
	check.Within(w.t, check.Patience, "Prometheus has scraped the gateway", func() error {
		if got, err := w.query("up == 1", time.Now(), time.Now()); err != nil || len(got) == 0 {
			return fmt.Errorf("%v %w", got, err)
		}
		return nil
	})
}

// query returns the series of a range query.
func (w *observed) query(expr string, from, to time.Time) (series []map[string]string, err error) {
	at := func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }
	ask := w.promURL + "/api/v1/query_range?" + url.Values{"query": {expr}, "start": {at(from)}, "end": {at(to)}, "step": {"1"}}.Encode()
	status, _, body, err := harness.Call(w.t.Context(), "GET", ask, "", nil)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("%s: %d %s %w", expr, status, answer.Error, err)
	}
	for _, r := range answer.Data.Result {
		series = append(series, r.Metric)
	}
	return series, nil
}

// firing returns the alarms that fire now.
func (w *observed) firing() map[string]bool {
	all := map[string]bool{}
	series, err := w.query(`ALERTS{alertstate="firing"}`, time.Now(), time.Now())
	check.OK(w.t, err)
	for _, s := range series {
		all[s["alertname"]] = true
		w.fired[s["alertname"]] = true
	}
	return all
}

func (w *observed) calm(alarms ...string) {
	w.t.Helper()
	now := w.firing()
	for _, a := range alarms {
		if now[a] {
			w.t.Errorf("%s fires before there is a cause", a)
		}
	}
}

func (w *observed) fires(cause string, alarms ...string) {
	w.t.Helper()
	w.await(cause, true, alarms)
}

func (w *observed) stops(alarms ...string) {
	w.t.Helper()
	w.await("the cause has ended", false, alarms)
}

func (w *observed) await(why string, want bool, alarms []string) {
	w.t.Helper()
	check.Within(w.t, 3*check.Patience, why, func() error {
		now := w.firing()
		for _, a := range alarms {
			if now[a] != want {
				return fmt.Errorf("%s fires: %t; firing are %v", a, now[a], slices.Sorted(maps.Keys(now)))
			}
		}
		return nil
	})
}

func (w *observed) cellgate(args ...string) string {
	w.t.Helper()
	out, err := harness.RunCellgate(w.t, w.data, append(args, "--data", w.data)...)
	if err != nil {
		w.t.Fatalf("cellgate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

func (w *observed) hangup() { w.dev.Signal(syscall.SIGHUP) }

// traffic has three vehicles send messages that rules cannot evaluate, and alarms, until end is called.
func (w *observed) traffic() (end func()) {
	w.t.Helper()
	stop := make(chan struct{})
	var group sync.WaitGroup
	for n := range 3 {
		login := w.login(n)
		v := w.vehicle(login)
		group.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				class := "event"
				if i%10 == 0 {
					class = "alarm"
				}
				if _, err := v.Publish(mqtt.Publish{Topic: "v1/" + login.ID + "/up/" + class, Payload: `{"n": "text", "code": 1}`, QoS: 1}); err != nil {
					if again, err := mqtt.Open(w.mqtt, login, nil); err == nil { // a drain has disconnected it
						v = again
					}
				}
			}
		})
	}
	end = sync.OnceFunc(func() { close(stop); group.Wait() })
	w.t.Cleanup(end)
	return end
}

func (w *observed) login(n int) mqtt.Connect {
	w.t.Helper()
	vin := fmt.Sprintf("LPROM%012d", n)
	return mqtt.Connect{Version: mqtt.V5, ID: vin, User: vin, Password: w.cellgate("token", "issue", "--vin", vin)}
}

// vehicle connects, with retries.
func (w *observed) vehicle(login mqtt.Connect) (v *mqtt.Client) {
	w.t.Helper()
	check.Within(w.t, check.Patience, login.ID+" connects", func() (err error) {
		v, err = mqtt.Open(w.mqtt, login, nil)
		return err
	})
	return v
}

// large publishes messages that match no rule.
func (w *observed) large(n, size int) {
	w.t.Helper()
	login := w.login(10)
	v := w.vehicle(login)
	defer v.Drop()
	p := mqtt.Publish{Topic: "v1/" + login.ID + "/up/backfill", Payload: `{"x": "` + strings.Repeat("x", size) + `"}`, QoS: 1}
	for range n {
		_, err := v.Publish(p)
		check.OK(w.t, err)
	}
}

// refused causes refusals: a rule file, the configuration, and a certificate that ends soon.
func (w *observed) refused() {
	w.t.Helper()
	soon := filepath.Join(w.t.TempDir(), "soon")
	run(w.t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "5", "-subj", "/CN=localhost",
		"-addext", "subjectAltName=DNS:localhost", "-keyout", soon+".key", "-out", soon+".crt")
	read := func(file string) string {
		text := check.Read(w.t, file)
		return string(text)
	}
	key := w.edit("tls/server.key", func(string) string { return read(soon + ".key") })
	crt := w.edit("tls/server.crt", func(string) string { return read(soon + ".crt") })
	w.hangup()
	w.fires("a certificate of five days", "CellgateCertificateEnds")
	key()
	crt()
	w.hangup()
	w.stops("CellgateCertificateEnds")
	rules := w.edit("configs/rules/faulty.rules.yaml", func(s string) string { return s + "  - {id: }\n" })
	w.fires("a rule without an id", "CellgateRulesRefused")
	rules()
	w.stops("CellgateRulesRefused")
	config := w.edit("configs/dev.yaml", func(s string) string { return s + "nonsense: 1\n" })
	w.hangup()
	w.fires("an unknown key", "CellgateConfigurationRefused")
	config()
	w.hangup()
	w.stops("CellgateConfigurationRefused")
}

func (w *observed) drained() {
	w.t.Helper()
	w.cellgate("drain", "--rate", "1")
	w.fires("a drain", "CellgateNotReady")
	w.cellgate("drain", "--stop")
	w.stops("CellgateNotReady")
}

// centreAway stops the centre while records wait for it.
func (w *observed) centreAway() {
	w.t.Helper()
	w.cellgate("dev", "stop", "centre")
	w.fires("the centre is away", "CellgateSyncLags")
	w.cellgate("dev", "start", "centre")
	w.stops("CellgateSyncLags")
}

// storesAway stops Kafka and Redis while large messages and many commands arrive.
func (w *observed) storesAway() {
	w.t.Helper()
	w.cellgate("dev", "stop", "kafka")
	w.cellgate("dev", "stop", "redis")
	w.large(60, 200_000)
	w.fires("the journal holds what Kafka has not got", "CellgateDegraded", "CellgateJournalFilling")
	w.commands(6000)
	w.fires("commands to vehicles that are away", "CellgateCommandsExpire")
	w.fires("Kafka is away for more than a minute", "CellgateSinkLags", "CellgateCommandsLate", "CellgateMessagesDropped")
	w.cellgate("dev", "start", "redis")
	w.cellgate("dev", "start", "kafka")
}

// commands sends commands to absent vehicles: each has two events, queued and expired.
func (w *observed) commands(n int) {
	w.t.Helper()
	token := w.cellgate("token", "issue", "--operator", "ada")
	todo := make(chan int)
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for i := range todo {
				path := fmt.Sprintf("http://%s/v1/vehicles/LAWAY%012d/commands", w.http, i%200)
				status, _, body, err := harness.Call(w.t.Context(), "POST", path, token, map[string]any{"name": "honk", "ttl": "1s"})
				if err != nil || status != http.StatusAccepted {
					w.t.Errorf("%d %s %v", status, body, err)
				}
			}
		})
	}
	for i := range n {
		todo <- i
	}
	close(todo)
	group.Wait()
}

// panels checks that each query of a dashboard had data in the run.
func (w *observed) panels() {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(harness.Root(), "deploy", "grafana", "dashboards", "*.json"))
	check.OK(w.t, err)
	asked := 0
	for _, file := range files {
		text := check.Read(w.t, file)
		var d struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		check.OK(w.t, json.Unmarshal(text, &d))
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				asked++
				expr := strings.NewReplacer("$__rate_interval", "10s", "$cell", ".*").Replace(target.Expr)
				if got, err := w.query(expr, w.since, time.Now()); err != nil || len(got) == 0 {
					w.t.Errorf("%s, %q: %s has no data (%v)", filepath.Base(file), p.Title, expr, err)
				}
			}
		}
	}
	if asked == 0 {
		w.t.Error("there are no dashboards")
	}
}

// damaged kills the gateway and changes bytes of its journal before the restart.
func (w *observed) damaged() {
	w.t.Helper()
	w.large(30, 10_000) // the damage is in several batches, and others follow
	w.dev.Kill()
	w.fires("the gateway was killed", "CellgateDown")
	segments, err := filepath.Glob(filepath.Join(w.data, "journal", "*"))
	check.OK(w.t, err)
	for _, file := range segments {
		f, err := os.OpenFile(file, os.O_RDWR, 0) //nolint:gosec // a test's file
		check.OK(w.t, err)
		for at := int64(20_000); at < 150_000; at += 5_000 {
			_, _ = f.WriteAt([]byte{0xA5, 0x5A}, at)
		}
		check.OK(w.t, f.Close())
	}
	w.start()
	w.fires("damage in the journal", "CellgateJournalDamaged")
	w.cellgate("losses", "acknowledge")
	w.stops("CellgateJournalDamaged", "CellgateDown")
}

// allAlarms checks that each alarm of the file has fired.
func (w *observed) allAlarms() {
	w.t.Helper()
	alerts := check.Read(w.t, filepath.Join(harness.Root(), "deploy", "prometheus", "alerts.yaml"))
	for _, name := range regexp.MustCompile(`- alert: (\w+)`).FindAllSubmatch(alerts, -1) {
		if a := string(name[1]); !w.fired[a] && withoutCause[a] == "" {
			w.t.Errorf("%s has not fired", a)
		}
	}
}
