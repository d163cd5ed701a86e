package hostile

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// attackPlan configures one attack on one gateway.
type attackPlan struct {
	options harness.Options // default: embedded Kafka and Redis
	honest  int             // vehicles that publish twice per second; default 20
	lasts   time.Duration   // duration with HOSTILE=full; HOSTILE_LASTS overrides it
	topic   string          // topic of honest telemetry; default vehicle.telemetry
	// commands runs a service that sends commands to a vehicle, one after the other.
	commands bool
	// prepare runs before the gateway starts, for topics and files.
	prepare func(t *testing.T, g *harness.Gateway, kafka *harness.Kafka)
	// beside is load that belongs to the honest side: it runs from before the first figures until the stop, so that
	// what it costs is in the figures before the attack too. May be nil.
	beside func(stop <-chan struct{}, c *cell)
	// attack returns when ctx ends.
	attack func(ctx context.Context, t *testing.T, c *cell)
	// until returns an error until the attack has had its effect, which extends the attack on a slow machine. May be
	// nil.
	until func(t *testing.T, c *cell) error
	// afterwards checks the gateway after the attack, when nothing is pending.
	afterwards func(t *testing.T, c *cell)
	// worstCommand is the highest acceptable latency of a command at full length; 0: not checked.
	worstCommand time.Duration
	// maxGrowth bounds the growth of resident memory during the attack, in bytes; default 256 MiB.
	maxGrowth int64
}

// cell is a gateway under attack and the systems around it.
type cell struct {
	*harness.Gateway
	kafka    *harness.Kafka
	operator string // token with every scope
}

// Bounds at full length. Latencies below the floor are not checked because of noise.
const (
	minRate   = 0.95 // of the honest rate before the attack
	maxSlower = 2.0  // × the p99 before the attack
	p99Floor  = 50 * time.Millisecond
)

// attackUntilDone measures honest clients without and with the attack, and compares.
func attackUntilDone(t *testing.T, s attackPlan) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	c := s.start(t)
	fleet := newHonestFleet(c.Gateway, vehicleTokens(t, c.Gateway, cmp.Or(s.honest, 20)))
	consumer := consume(t, c.kafka, cmp.Or(s.topic, "vehicle.telemetry"))
	var orders *commander
	if s.commands {
		orders = startCommander(t, c)
	}
	fleet.start(t)
	endBeside := s.runBeside(t, c)
	span := s.span()
	fleet.takeFigures()
	watch(t, c, span, "before the attack")
	before := collect(span, fleet, consumer, orders)
	rssBefore := rss(t, c.Gateway)

	ctx, stop := context.WithCancel(t.Context())
	attacked := make(chan struct{})
	go func() { defer close(attacked); s.attack(ctx, t, c) }()
	length := s.length()
	begin := time.Now()
	peak := watch(t, c, length, "under attack")
	if s.until != nil {
		check.Within(t, 2*check.Patience, "the attack", func() error { return s.until(t, c) })
	}
	fleet.awaitDelivery(t, consumer) // the attack is still running
	during := collect(time.Since(begin), fleet, consumer, orders)
	stop()
	<-attacked

	if orders != nil {
		orders.end(t)
	}
	endBeside()
	fleet.end()
	s.report(t, before, during, rssBefore, peak)
	fleet.audit(t, consumer)
	if s.afterwards != nil {
		s.afterwards(t, c)
	}
}

func (s *attackPlan) start(t *testing.T) *cell {
	t.Helper()
	if s.options.Kafka == nil {
		s.options.Kafka = harness.EmbeddedKafka(t)
	}
	if s.options.Redis == "" && s.options.RedisSettings == "" {
		s.options.Redis = harness.EmbeddedRedis(t)
	}
	g := harness.PrepareGateway(t, s.options)
	if s.prepare != nil {
		s.prepare(t, g, s.options.Kafka)
	}
	g.Start()
	return &cell{Gateway: g, kafka: s.options.Kafka, operator: g.OperatorToken()}
}

// runBeside starts beside and returns the function that stops it and waits for its end.
func (s *attackPlan) runBeside(t *testing.T, c *cell) (end func()) {
	stop := make(chan struct{})
	var running sync.WaitGroup
	if s.beside != nil {
		running.Go(func() { s.beside(stop, c) })
	}
	end = sync.OnceFunc(func() { close(stop); running.Wait() })
	t.Cleanup(end)
	return end
}

// span is how long the honest clients are measured without the attack.
func (s *attackPlan) span() time.Duration {
	if full() {
		return min(time.Minute, s.length())
	}
	return 2 * time.Second
}

func (s *attackPlan) length() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("HOSTILE_LASTS")); err == nil {
		return d
	}
	if full() {
		return cmp.Or(s.lasts, 10*time.Minute)
	}
	return 3 * time.Second
}

// watch waits for d, logs every ten seconds, and returns the peak of the resident memory.
func watch(t *testing.T, c *cell, d time.Duration, what string) (peak int64) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		peak = max(peak, watchRSS(t, c.Gateway, min(10*time.Second, time.Until(end))))
		if left := time.Until(end); left > 0 {
			t.Logf("%s: %v left, %d MiB resident", what, left.Round(time.Second), peak>>20)
		}
	}
	return peak
}

// figures are the honest clients' measurements of one period.
type figures struct {
	span                   time.Duration
	acked, delivered, sent int // PUBACKs, records in Kafka, commands with an outcome
	puback, kafka, command *latencies
}

func collect(span time.Duration, f *honestFleet, k *consumer, o *commander) figures {
	acked, puback := f.takeFigures()
	delivered, delay := k.takeFigures()
	all := figures{span: span, acked: acked, delivered: delivered, puback: puback, kafka: delay, command: newLatencies()}
	if o != nil {
		all.sent, all.command = o.takeFigures()
	}
	return all
}

func (s *attackPlan) report(t *testing.T, before, during figures, rssBefore, rssPeak int64) {
	t.Helper()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "honest clients\tper second\tbefore\tp50\tp99\tbefore p50\tbefore p99")
	row := func(name string, n, nBefore int, l, lBefore *latencies) {
		rate, rateBefore := float64(n)/during.span.Seconds(), float64(nBefore)/before.span.Seconds()
		_, _ = fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%v\t%v\t%v\t%v\n", name, rate, rateBefore, l.at(50), l.at(99), lBefore.at(50), lBefore.at(99))
		if !full() {
			return
		}
		if rate < minRate*rateBefore {
			t.Errorf("%s: %.1f a second under attack, %.1f before", name, rate, rateBefore)
		}
		if p99 := l.at(99); p99 > p99Floor && float64(p99) > maxSlower*float64(lBefore.at(99)) {
			t.Errorf("%s: p99 %v under attack, %v before", name, p99, lBefore.at(99))
		}
	}
	row("PUBACK", during.acked, before.acked, during.puback, before.puback)
	row("in Kafka", during.delivered, before.delivered, during.kafka, before.kafka)
	if s.commands {
		row("commands", during.sent, before.sent, during.command, before.command)
	}
	_ = w.Flush()
	t.Logf("under attack for %v\n%s", during.span.Round(time.Second), b.String())
	if s.commands {
		t.Logf("the longest command: %v under attack, %v before", during.command.at(100), before.command.at(100))
	}
	if worst := during.command.at(100); full() && s.worstCommand > 0 && worst > max(s.worstCommand, before.command.at(100)) {
		t.Errorf("a command took %v, the bound is %v, and before the attack the longest took %v", worst, s.worstCommand, before.command.at(100))
	}
	t.Logf("resident: %d MiB before, %d at the peak", rssBefore>>20, rssPeak>>20)
	if grown, bound := rssPeak-rssBefore, cmp.Or(s.maxGrowth, 256<<20); grown > bound {
		t.Errorf("resident memory grew by %d MiB, above the bound of %d", grown>>20, bound>>20)
	}
}
