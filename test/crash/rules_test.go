package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/configs"
	"cellgate/rules/engine"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// constructs use every part of the language that keeps state, depends on time, or reads data outside the message.
const constructs = `
zones:
  gate: {lat: 31.2, lon: 121.4, radius: 500}
  depots: {file: depots.geojson}
tables: {models: {file: models.csv, key: vin}}
lists: {codes: [c0, c1, c2]}
schema: {event_at: ts, fields: {soc: {number: [0, 100], outside: missing}}, open: true}
rules:
  - {id: mean, from: ["v1/+/up/telemetry"], average: {of: payload.speed, window: 1s}, to: [{kafka: {topic: t.mean}}]}
  - {id: several, from: ["v1/+/up/telemetry"], aggregate: {window: 2s, min: payload.speed, max: payload.speed, last: payload.code}, having: operator.max > 60, to: [{kafka: {topic: t.several}}]}
  - {id: own-clock, from: ["v1/+/up/telemetry"], time: event, sum: {of: payload.speed, window: 1s}, to: [{kafka: {topic: t.own-clock}}]}
  - {id: sampled, from: ["v1/+/up/telemetry"], time: event, sample: 700ms, to: [{kafka: {topic: t.sampled}}]}
  - {id: quiet, from: ["v1/+/up/telemetry"], silent: 1s, to: [{kafka: {topic: t.quiet}}]}
  - {id: slower, from: ["v1/+/up/telemetry"], on_change: {of: payload.speed, deadband: 3, by: payload.code}, having: operator.previous - payload.speed > 5, to: [{kafka: {topic: t.slower}}]}
  - {id: low, from: ["v1/+/up/telemetry"], threshold: {enter: payload.soc < 40, exit: payload.soc > 60, for: 300ms}, to: [{kafka: {topic: t.low}}]}
  - {id: often, from: ["v1/+/up/telemetry"], count: {at_least: 4, window: 1m, by: payload.code}, to: [{kafka: {topic: t.often}}]}
  - {id: once, from: ["v1/+/up/telemetry"], dedupe: {by: payload.n, within: 2s}, to: [{kafka: {topic: "t.once.${payload.code in codes}"}}]}
  - {id: few, from: ["v1/+/up/telemetry"], rate_limit: {count: 2, per: 1s}, to: [{kafka: {topic: t.few}}]}
  - {id: alarms, from: ["v1/+/up/telemetry"], each: payload.alarms, when: item.level > 2, threshold: {enter: item.on == true, by: item.code}, to: [{kafka: {topic: t.alarms, key: item.code}}]}
  - {id: at-gate, from: ["v1/+/up/telemetry"], when: "inside(payload.lat, payload.lon, gate) and not inside(payload.lat, payload.lon, depots)", to: [{kafka: {topic: t.gate}}]}
  - {id: tank, from: ["v1/+/up/telemetry"], when: 'payload.speed / models[vin].tank > 1', transform: {who: hash(vin), kind: 'models[vin].kind', at: received_at}, to: [{kafka: {topic: t.tank, key: hash(vin), headers: none}}]}
  - {id: some, from: ["v1/+/up/telemetry"], mode: {canary: 40%, salt: e1}, to: [{kafka: {topic: t.some}}]}
  - {id: others, from: ["v1/+/up/telemetry"], mode: {canary: 40%, salt: e1, arm: control}, to: [{kafka: {topic: t.others}}]}
  - {id: faulty, from: ["v1/+/up/telemetry"], when: payload.x > 3, to: [{kafka: {topic: t.faulty}}], limits: {errors: 5% per 24h then shadow}}
`

// later is a rule set that is loaded during the test.
const later = constructs + "  - {id: more, from: [\"v1/+/up/telemetry\"], sample: 1s, to: [{kafka: {topic: t.more}}]}\n"

func constructFiles(rules string) map[string]string {
	var table strings.Builder
	table.WriteString("vin,tank,kind\n")
	for i := range 8 {
		fmt.Fprintf(&table, "%s,%d,van\n", carOf(i), 40+i)
	}
	return map[string]string{
		"c.rules.yaml": rules, "models.csv": table.String(),
		"depots.geojson": `{"type":"Polygon","coordinates":[[[121.400,31.195],[121.404,31.195],[121.404,31.205],[121.400,31.205],[121.400,31.195]]]}`,
	}
}

func carOf(i int) string { return fmt.Sprintf("LTEST%012d", i) }

const fleetSize = 12

// decided is a gateway whose output is compared with a replay of its journal.
type decided struct {
	*harness.Gateway
	t        *testing.T
	brokers  []string
	keys     lang.HashKeys
	operator string
	conns    [fleetSize]*mqtt.T
	journals []string // copies
	n        int
	resting  int // number of vehicles that send nothing
}

// TestEveryWayDecidesTheSame: running normally, killed, through the decision logs while Kafka is away, and across a
// reload, the records in Kafka equal those of a replay of the journal and the counts of a backtest.
func TestEveryWayDecidesTheSame(t *testing.T) {
	t.Parallel()
	for name, during := range map[string]func(d *decided, part int){
		"live": func(*decided, int) {},
		"kill": func(d *decided, part int) {
			if part == 3 || part == 6 || part == 9 {
				d.Kill()
				d.keep()
				d.Gateway.Start()
			}
		},
		"lag over a reload": func(d *decided, part int) {
			switch part {
			case 4:
				d.apply(later)
			case 8:
				d.apply(constructs)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDecided(t, name != "lag over a reload")
			d.drive(func(part int) { during(d, part) })
			if name == "lag over a reload" {
				d.kafka()
			}
			d.compare()
		})
	}
}

func newDecided(t *testing.T, kafka bool) *decided {
	t.Helper()
	d := &decided{t: t, brokers: []string{harness.FreeAddr(t)}, keys: lang.HashKeys{
		{ID: "k1", Secret: []byte("0123456789abcdef")}, {ID: "k2", Secret: []byte("fedcba9876543210"), From: time.Now().Add(8 * time.Second).UTC().Truncate(time.Second)},
	}}
	if kafka {
		d.kafka()
	}
	d.Gateway = harness.StartGateway(t, harness.Options{
		Kafka: &harness.Kafka{Brokers: d.brokers}, Redis: harness.EmbeddedRedis(t), Rules: rulestest.WriteFiles(t, constructFiles(constructs)),
		RuleSettings: fmt.Sprintf(`queue_messages: 32, hash_keys: [{id: k1, key: "%s"}, {id: k2, key: "%s", from: %s}]`,
			d.keys[0].Secret, d.keys[1].Secret, d.keys[1].From.Format(time.RFC3339)),
	})
	d.operator = d.OperatorToken()
	return d
}

// kafka starts a broker at the address that the gateway knows.
func (d *decided) kafka() {
	d.t.Helper()
	_, port, err := net.SplitHostPort(d.brokers[0])
	check.OK(d.t, err)
	n, err := strconv.Atoi(port)
	check.OK(d.t, err)
	fakekafka.Cluster(d.t, kfake.Ports(n), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(2))
}

// keep copies the journal of a stopped gateway, because the next one deletes records that all sinks have passed.
func (d *decided) keep() {
	d.t.Helper()
	dir := filepath.Join(d.Dir, "journal-"+strconv.Itoa(len(d.journals)))
	check.OK(d.t, os.CopyFS(dir, os.DirFS(filepath.Join(d.Dir, "data", "journal"))))
	d.journals = append(d.journals, dir)
}

func (d *decided) apply(rules string) {
	d.t.Helper()
	check.OK(d.t, os.WriteFile(filepath.Join(d.Dir, "rules", "c.rules.yaml"), []byte(rules), 0o600))
	if status, body, err := d.Do("POST", "/v1/rules/reload", d.operator, nil); err != nil || status != 200 {
		d.t.Fatalf("reload: %d %s %v", status, body, err)
	}
}

// drive sends messages for some seconds, in parts, between which something may happen to the gateway.
func (d *decided) drive(between func(part int)) {
	for part := range 12 {
		d.round(false)
		between(part) // while acknowledged messages are still being processed
		d.round(false)
		d.round(false)
		if part == 7 {
			d.failing()
		}
		if part == 3 { // some are silent
			d.resting = 3
		}
		if part == 10 {
			d.resting = 0
		}
		time.Sleep(300 * time.Millisecond) // windows end and vehicles are silent by the machine's clock
	}
}

// rest waits until everything is delivered and no tick is due: a tick during the stop would be evaluated by the next
// process.
func (d *decided) rest() {
	d.t.Helper()
	const longest = 2 * time.Second // window
	ticks, since := "", time.Now()
	check.Within(d.t, 2*time.Minute, "everything that is due", func() error {
		status, body, err := d.Get("/metrics", "")
		if err != nil || status != 200 {
			return fmt.Errorf("%d %w", status, err)
		}
		for line := range strings.Lines(string(body)) {
			switch {
			case strings.HasPrefix(line, "cellgate_rule_ticks_overdue_seconds") && !strings.HasSuffix(strings.TrimSpace(line), " 0"):
				return fmt.Errorf("%s", line)
			case strings.HasPrefix(line, "cellgate_rule_ticks_total") && line != ticks:
				ticks, since = line, time.Now()
			}
		}
		if time.Since(since) < longest+500*time.Millisecond {
			return errors.New("ticks come")
		}
		return d.Settled(d.operator)
	})
}

// round has each vehicle send a message.
func (d *decided) round(faulty bool) {
	d.t.Helper()
	var wg sync.WaitGroup
	for range fleetSize {
		d.n++
		if i := d.n; i%fleetSize >= d.resting {
			wg.Go(func() { d.send(i, faulty) })
		}
	}
	wg.Wait()
	if d.t.Failed() {
		d.t.FailNow()
	}
}

// failing sends messages with text instead of a number until the failing rule is held.
func (d *decided) failing() {
	d.t.Helper()
	check.Within(d.t, time.Minute, "the rule to be held", func() error {
		d.round(true)
		status, body, err := d.Get("/v1/rules", d.operator)
		if err != nil || status != 200 || !strings.Contains(string(body), `"held":[{"rule":"faulty"`) {
			return fmt.Errorf("%d %w", status, err)
		}
		return nil
	})
}

// send sends a vehicle's message. If a kill interrupts it, it may or may not be in the journal, so it is sent again.
func (d *decided) send(i int, faulty bool) {
	v, x := i%fleetSize, strconv.Itoa(i%7)
	if faulty {
		x = `"seven"`
	}
	soc := 30 + i/fleetSize/9%2*60 // low for several rounds, then high
	if i%11 == 0 {
		soc = 120 // no measurement
	}
	at := time.Now().UnixMilli() - int64(i%5/4)*3000
	payload := fmt.Sprintf(`{"n":%d,"ts":%d,"speed":%d.50,"soc":%d,"code":"c%d","lat":31.2,"lon":121.40%d,"x":%s,"alarms":[{"code":"a%d","level":%d,"on":%t},{"code":"b","level":3,"on":true}]}`,
		i/2, at, i*37%90, soc, i%3, i%9, x, i%2, i%4, i%5 < 3)
	c := d.conns[v]
	for try := range 2 {
		if c == nil {
			c = mqtt.DialT(d.t, d.Lab, 5, nil)
			c.Open(mqtt.Connect{Version: 5, ID: carOf(v), Keepalive: 60})
			d.conns[v] = c
		}
		if _, err := c.Client.Publish(mqtt.Publish{Topic: "v1/" + carOf(v) + "/up/telemetry", QoS: 1, Payload: payload}); err == nil {
			return
		} else if try > 0 {
			d.t.Error(err)
		}
		c = nil
	}
}

// compare waits for delivery, stops the gateway and compares the records in Kafka with its journal.
func (d *decided) compare() {
	d.t.Helper()
	d.rest()
	check.OK(d.t, d.Stop(30*time.Second))
	want, counts := d.replay()
	got := d.arrived(want)
	if len(want) < 1000 {
		d.t.Errorf("only %d messages", len(want))
	}
	for id := range mergeKeys(got, want) {
		if got[id] != want[id] {
			d.t.Errorf("%s: Kafka has %q, the journal gives %q", id, got[id], want[id])
		}
	}
	if len(d.journals) == 1 {
		d.backtest(counts)
	}
}

func mergeKeys(a, b map[string]string) map[string]bool {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	return all
}

// arrived returns the records in Kafka by message identity; one without headers by its key and value.
func (d *decided) arrived(want map[string]string) map[string]string {
	d.t.Helper()
	topics := map[string]bool{configs.Default().Rules.ErrorTopic: true}
	for id := range want {
		topic, _, _ := strings.Cut(id, " ")
		topics[topic] = true
	}
	got := map[string]string{}
	for topic := range topics {
		records, err := harness.ReadTopic(d.t.Context(), d.brokers, topic)
		check.OK(d.t, err)
		for _, r := range records {
			h := r.Headers
			id, text := fmt.Sprint(topic, " ", h["msg-id"], h["rule"], h["target"], h["item"]), r.Key+" "+string(r.Value)
			if h["msg-id"] == "" {
				id = fmt.Sprint(topic, " ", text)
			}
			if other, known := got[id]; known && other != text {
				d.t.Errorf("one id, %s, for %s and %s", id, other, text)
			}
			got[id] = text
		}
	}
	return got
}

// replay evaluates the journal again with the rule sets that it names.
func (d *decided) replay() (out map[string]string, matched map[string]uint64) {
	d.t.Helper()
	sets := map[string]*lang.Set{}
	for _, rules := range []string{constructs, later} {
		files := map[string][]byte{}
		for name, text := range constructFiles(rules) {
			files[name] = []byte(text)
		}
		src := lang.NewSource(files)
		o := rulestest.Options("cell-test-01")
		o.HashKeys = &d.keys
		set, found := lang.Compile(src, o)
		check.OK(d.t, found.Err())
		sets[src.Hash()] = set
	}
	r := &replayed{
		t: d.t, sets: sets, out: map[string]string{}, matched: map[string]uint64{}, epoch: d.epoch(),
		state: state.NewState(state.StateOptions{MaxVINs: configs.Default().Rules.MaxVINs, MaxVINBytes: configs.MaxVINBytes}),
	}
	r.limits.Exceeded = func(message.Limit) {}
	d.keep()
	for _, dir := range d.journals {
		check.OK(d.t, journal.Dump(dir, r.next, r.add))
	}
	if r.held != 1 {
		d.t.Errorf("the journal holds the faulty rule %d times", r.held)
	}
	return r.out, r.matched
}

func (d *decided) epoch() uint64 {
	d.t.Helper()
	report, err := journal.Verify(filepath.Join(d.Dir, "data", "journal"))
	check.OK(d.t, err)
	return report.Epoch
}

// replayed evaluates records as the dispatcher does, one after the other.
type replayed struct {
	t       *testing.T
	sets    map[string]*lang.Set
	set     *lang.Set
	state   *state.State
	worker  *engine.Worker
	limits  engine.Limits
	epoch   uint64
	held    int
	made    op.Rendered
	out     map[string]string
	matched map[string]uint64
	next    uint64
}

func (r *replayed) add(rec *message.Record) error {
	r.next = rec.Seq + 1
	switch rec.Kind {
	case message.KindRuleSet:
		r.state.Advance(rec.ReceivedAt)
		if r.set = r.sets[string(rec.Payload)]; r.set == nil {
			return fmt.Errorf("rule set %s is not known", rec.Payload)
		}
		r.worker = engine.NewEngine(r.set, r.state).NewWorker()
		r.limits.Use(r.set.Compiled, []engine.Counter{r.worker})
		r.state.Advance(rec.ReceivedAt)
		return nil
	case message.KindLimit:
		_, changed, err := r.limits.Apply(rec)
		if changed {
			r.held++
		}
		return err
	case message.KindTick:
		if rec.TickBegins() {
			r.state.Begin(rec.ReceivedAt)
		}
	case message.KindPublish:
	default:
		return nil
	}
	r.state.Advance(rec.ReceivedAt)
	if r.worker == nil {
		return nil
	}
	r.limits.Reach(rec.ReceivedAt, rec.Seq)
	for _, dec := range r.worker.Eval(rec, nil) {
		if err := r.take(&dec, rec); err != nil {
			return err
		}
	}
	return nil
}

func (r *replayed) take(dec *engine.Decision, rec *message.Record) error {
	if dec.Err == "" {
		r.matched[r.set.RuleID(dec.Rule)]++
	}
	if dec.Shadow {
		return nil
	}
	if err := r.worker.Render(*dec, rec, &r.made); err != nil {
		return err
	}
	text := string(r.made.Key) + " " + string(r.made.Value)
	headers := map[string]string{}
	for _, h := range r.made.Headers {
		headers[h.Name] = h.Value
	}
	msgID := message.ID("gw-1", r.epoch, rec.Origin())
	if w := dec.Window; w != nil {
		msgID = w.VIN + "-" + strconv.FormatInt(w.End, 10)
	}
	id := fmt.Sprint(r.made.Topic, " ", msgID, headers["rule"], headers["target"], headers["item"])
	if r.made.Bare {
		id = fmt.Sprint(r.made.Topic, " ", text)
	}
	r.out[id] = text
	return nil
}

// backtest compares the counts of a backtest with the decisions.
func (d *decided) backtest(matched map[string]uint64) {
	d.t.Helper()
	check.OK(d.t, os.WriteFile(filepath.Join(d.Dir, "rules", "c.rules.yaml"), []byte(constructs), 0o600))
	var report struct {
		Sets []struct {
			Rules []struct {
				Rule            string
				Matched, Shadow uint64
			}
		} `json:"rule_sets"`
	}
	check.OK(d.t, json.Unmarshal([]byte(d.Cellgate("rules", "backtest", "--json", "--journal", filepath.Join(d.Dir, "data", "journal"), "rules")), &report))
	got := map[string]uint64{}
	for _, c := range report.Sets[0].Rules {
		got[c.Rule] = c.Matched + c.Shadow
	}
	delete(matched, "more")
	for id, n := range got {
		if n == 0 {
			d.t.Errorf("rule %s never matches", id)
		}
	}
	if !maps.Equal(got, matched) {
		for _, id := range slices.Sorted(maps.Keys(got)) {
			d.t.Logf("%s: a backtest matches %d, the journal gives %d", id, got[id], matched[id])
		}
		d.t.Error("a backtest decides otherwise")
	}
}
