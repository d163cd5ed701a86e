//go:build bench

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

var (
	consoleVehicles = flag.Int("console-vehicles", 100_000, "vehicles that the gateway of TestConsole knows, each with a command")
	consoleSpan     = flag.Duration("console-span", 10*time.Second, "how long each page of TestConsole is open")
)

// consoleLoads is how often each page is loaded.
const consoleLoads = 30

// consoleViewers is how many windows show a page at a time: one costs too little to be measured. It is no more than the streams
// of one subject.
const consoleViewers = 8

// TestConsole states how long each page of the console takes, and what an open one costs, at a gateway that knows 100,000
// vehicles with a session, presence and a finished command each, of which 300 are connected and publish.
func TestConsole(t *testing.T) {
	const connected = 300
	g := harness.StartGateway(t, harness.Options{Kafka: harness.EmbeddedKafka(t), Redis: harness.EmbeddedRedis(t), Extra: unlimited})
	operator := g.OperatorToken()
	n := *consoleVehicles
	began := time.Now()
	inParallel(t, n, func(i int) error { return visitOnce(g.Lab, VIN(i)) })
	t.Logf("%d vehicles known after %v", n, time.Since(began).Round(time.Second))
	sendAll(t, g, operator, n)
	t.Logf("a command each after %v", time.Since(began).Round(time.Second))
	conns, _, err := Crowd{Load: Load{Addr: g.Lab}, First: n - connected, Count: connected, AtOnce: connecting}.Connect(t.Context())
	check.OK(t, err)
	defer hangUp(conns)
	check.Within(t, 5*time.Minute, "delivery of everything, and the end of all commands", func() error { return consoleSettled(g, operator, n) })
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := Pace{Conns: conns, First: n - connected, Period: 5 * time.Second, Payload: telemetry(256)[0]}.Run(24*time.Hour, stop)
		done <- err
	}()
	b := newBrowser(t, g, operator)
	loads := b.loads(t, consolePages(n, b.ruleSet(t, operator)))
	if *consoleSpan > 0 {
		go sendOn(g, operator, n, stop)
		b.open(t, loads)
	}
	close(stop)
	check.OK(t, <-done)
}

// inParallel calls do with the numbers below n.
func inParallel(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	const workers = 64
	errs := make([]error, workers)
	var all sync.WaitGroup
	for k := range workers {
		all.Go(func() {
			for i := k; i < n && errs[k] == nil; i += workers {
				errs[k] = do(i)
			}
		})
	}
	all.Wait()
	check.OK(t, errors.Join(errs...))
}

// visitOnce connects a vehicle with a session for a day and a subscription to its commands, and publishes once.
func visitOnce(addr, vin string) error {
	c, err := mqtt.Open(addr, mqtt.Connect{Version: mqtt.V5, ID: vin, Keepalive: 600, Props: [][]byte{mqtt.Number(mqtt.SessionExpiry, 86400)}}, nil)
	if err != nil {
		return err
	}
	defer c.Drop()
	if _, err := c.Subscribe(nil, mqtt.Filter("v1/"+vin+"/cmd/#", 1)); err != nil {
		return err
	}
	if _, err := c.Publish(mqtt.Publish{Topic: "v1/" + vin + "/up/telemetry", Payload: string(telemetry(256)[0]), QoS: 1}); err != nil {
		return err
	}
	return c.Send(mqtt.Disconnect())
}

// sendAll sends each vehicle a command that expires soon, the first vehicle first.
func sendAll(t *testing.T, g *harness.Gateway, operator string, n int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	inParallel(t, n, func(i int) error { return sendCommand(client, g, operator, VIN(i), "c"+strconv.Itoa(i), "1s") })
}

// sendOn sends ten commands a second until stop is closed: pages that show commands move.
func sendOn(g *harness.Gateway, operator string, n int, stop <-chan struct{}) {
	client := &http.Client{}
	defer client.CloseIdleConnections()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(100 * time.Millisecond):
			_ = sendCommand(client, g, operator, VIN(n-1), "on"+strconv.Itoa(i), "3s")
		}
	}
}

func sendCommand(client *http.Client, g *harness.Gateway, operator, vin, id, ttl string) error {
	r, err := http.NewRequest(http.MethodPost, "http://"+g.HTTP+"/v1/vehicles/"+vin+"/commands",
		strings.NewReader(`{"id": "`+id+`", "name": "unlock", "payload": {"doors": "all"}, "ttl": "`+ttl+`"}`))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+operator)
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if text, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusAccepted {
		return fmt.Errorf("command %s: %d %s", id, answer.StatusCode, text)
	}
	return nil
}

func consoleSettled(g *harness.Gateway, operator string, n int) error {
	for name, want := range map[string]float64{"cellgate_commands_kept": float64(n), "cellgate_command_events_waiting": 0} {
		if got, err := metricOf(g, name); err != nil || got != want {
			return fmt.Errorf("%s is %v, not %v: %w", name, got, want, err)
		}
	}
	return g.Settled(operator)
}

// consolePages are the pages by name: first and last, with a search that finds one, many and none.
func consolePages(n int, set string) map[string]string {
	first, last := VIN(0), VIN(n-1)
	return map[string]string{
		"cell": "/", "ledger": "/ledger", "rules": "/rules", "history": "/rules/history", "a rule set": "/rules/history/" + set,
		"playground": "/playground", "trace": "/trace?vin=" + last,
		"vehicles": "/vehicles", "vehicles, last page": "/vehicles?after=" + VIN(n-51), "vehicles, one found": "/vehicles?vin=" + first,
		"vehicles, none found": "/vehicles?vin=WVWZZZ", "vehicle": "/vehicles/" + last, "vehicle with the oldest command": "/vehicles/" + first,
		"vehicle, unknown": "/vehicles/WVWZZZ00000000001",
		"commands":         "/commands", "commands of a state": "/commands?state=expired", "commands, no such state": "/commands?state=failed",
		"commands of a vehicle": "/commands?vin=" + first, "commands, no such vehicle": "/commands?vin=WVWZZZ00000000001",
		"commands, last page": "/commands?after=" + strconv.FormatUint(51, 36), "command": "/commands/" + first + "/c0",
	}
}

// browser is somebody who has logged in.
type browser struct {
	g      *harness.Gateway
	base   string
	client *http.Client
}

func newBrowser(t *testing.T, g *harness.Gateway, token string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	check.OK(t, err)
	b := &browser{g: g, base: "http://" + g.HTTP, client: &http.Client{Jar: jar, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	t.Cleanup(b.client.CloseIdleConnections)
	page, err := b.get("/login")
	check.OK(t, err)
	csrf := regexp.MustCompile(`name="csrf" value="([^"]+)"`).FindSubmatch(page)
	if csrf == nil {
		t.Fatalf("no form on the page of the login:\n%s", page)
	}
	answer, err := b.client.PostForm(b.base+"/login", url.Values{"csrf": {string(csrf[1])}, "token": {token}})
	check.OK(t, err)
	defer func() { _ = answer.Body.Close() }()
	if answer.Request.URL.Path != "/" {
		t.Fatalf("the login ended at %s", answer.Request.URL)
	}
	return b
}

func (b *browser) get(path string) ([]byte, error) {
	answer, err := b.client.Get(b.base + path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d", path, answer.StatusCode)
	}
	return text, err
}

// ruleSet is the hash of the rule set in force.
func (b *browser) ruleSet(t *testing.T, operator string) string {
	t.Helper()
	var set struct{ Hash string }
	_, body, err := b.g.Get("/v1/rules", operator)
	check.OK(t, err)
	check.OK(t, json.Unmarshal(body, &set))
	return set.Hash
}

// consoleLoad is the load of a page, which refreshes at intervals and after events of its stream.
type consoleLoad struct {
	name, path string
	refresh    time.Duration // 0: never
	stream     string
}

var (
	dataRefresh = regexp.MustCompile(`data-refresh="(\d+)"`)
	dataStream  = regexp.MustCompile(`data-stream="([^"]+)"`)
	dataVIN     = regexp.MustCompile(`data-vin="([^"]+)"`)
)

// loads loads each page some times, states the slowest and the processor time, and reads what moves on it.
func (b *browser) loads(t *testing.T, pages map[string]string) []consoleLoad {
	t.Helper()
	out := table{
		Title:   fmt.Sprintf("console with %d vehicles known, each page %d times", *consoleVehicles, consoleLoads),
		Columns: []string{"page", "bytes", "median ms", "slowest ms", "gateway CPU ms"},
	}
	var all []consoleLoad
	for _, name := range sortedNames(pages) {
		path := pages[name]
		took := make([]time.Duration, consoleLoads)
		before := cpu(t, b.g.Process)
		var page []byte
		for i := range took {
			began := time.Now()
			text, err := b.get(path)
			check.OK(t, err)
			took[i], page = time.Since(began), text
		}
		used := cpu(t, b.g.Process) - before
		slices.Sort(took)
		slowest := took[len(took)-1]
		out.row(name, len(page), ms(took[len(took)/2]), ms(slowest), fmt.Sprintf("%.2f", float64(used.Microseconds())/1000/consoleLoads))
		summary.atMost("console with 100,000 vehicles, slowest load of: "+name, float64(slowest.Microseconds())/1000, "ms", 200, 0)
		l := consoleLoad{name: name, path: path}
		if m := dataRefresh.FindSubmatch(page); m != nil {
			l.refresh, _ = time.ParseDuration(string(m[1]) + "s")
		}
		if m := dataStream.FindSubmatch(page); m != nil {
			l.stream = string(m[1])
		} else if m := dataVIN.FindSubmatch(page); m != nil {
			l.stream = "/stream/vehicles/" + string(m[1]) + "/events"
		} else if query, ok := strings.CutPrefix(path, "/trace"); ok {
			l.stream = "/stream/trace" + query
		}
		all = append(all, l)
	}
	summary.add(out)
	return all
}

func sortedNames(pages map[string]string) []string {
	var names []string
	for name := range pages {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// open shows each page that moves in some windows, and states the processor time of one, above that of the gateway without.
func (b *browser) open(t *testing.T, pages []consoleLoad) {
	t.Helper()
	without := b.during(t, 0, consoleLoad{})
	out := table{
		Title:   fmt.Sprintf("an open page of the console, %d windows for %v; without, the gateway uses %.2f %% of a core", consoleViewers, *consoleSpan, without),
		Columns: []string{"page", "with, % of a core", "a window"},
	}
	for _, p := range pages {
		if p.refresh == 0 && p.stream == "" || strings.ContainsAny(p.name, " ") {
			continue // of pages that differ in what is searched for, one
		}
		viewers := consoleViewers
		if strings.HasPrefix(p.stream, "/stream/trace") {
			viewers /= 2 // of the traces, one subject has half
		}
		with := b.during(t, viewers, p)
		window := (with - without) / float64(viewers)
		out.row(p.name, fmt.Sprintf("%.2f", with), fmt.Sprintf("%.3f", window))
		summary.atMost("console with 100,000 vehicles, open: "+p.name, window, "% of a core", 1, 0)
	}
	summary.add(out)
}

// during is the gateway's use of a core, in percent, while windows show a page.
func (b *browser) during(t *testing.T, windows int, p consoleLoad) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), *consoleSpan)
	defer cancel()
	before, began := cpu(t, b.g.Process), time.Now()
	var all sync.WaitGroup
	errs := make([]error, windows)
	for i := range windows {
		all.Go(func() { errs[i] = b.watch(ctx, p) })
	}
	<-ctx.Done()
	used, took := cpu(t, b.g.Process)-before, time.Since(began)
	all.Wait()
	check.OK(t, errors.Join(errs...))
	return 100 * used.Seconds() / took.Seconds()
}

// watch does what console.js does.
func (b *browser) watch(ctx context.Context, p consoleLoad) error {
	moved := make(chan struct{}, 1)
	if _, err := b.get(p.path); err != nil {
		return err
	}
	if p.stream != "" {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+p.stream, nil)
		if err != nil {
			return err
		}
		answer, err := b.client.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %d", p.stream, answer.StatusCode)
		}
		go events(answer.Body, moved)
	}
	var tick <-chan time.Time
	if p.refresh > 0 {
		ticker := time.NewTicker(p.refresh)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick:
		case <-moved:
			select {
			case <-time.After(500 * time.Millisecond): // as calmly does
			case <-ctx.Done():
				return nil
			}
		}
		if _, err := b.get(p.path); err != nil {
			return err
		}
	}
}

// events reports when an event that reloads a page has arrived.
func events(stream io.Reader, moved chan<- struct{}) {
	part := make([]byte, 64<<10)
	for {
		n, err := stream.Read(part)
		if err != nil {
			return
		}
		for _, kind := range []string{"event: ledger", "event: presence", "event: command"} {
			if bytes.Contains(part[:n], []byte(kind)) {
				select {
				case moved <- struct{}{}:
				default:
				}
			}
		}
	}
}
