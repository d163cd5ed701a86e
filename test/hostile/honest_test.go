package hostile

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// honestFleet is a fleet of vehicles that connect over TLS with tokens, publish, wait for every PUBACK, and reconnect
// every few seconds.
type honestFleet struct {
	addr   string
	config *tls.Config
	tokens map[string]string
	stop   chan struct{}
	all    sync.WaitGroup

	mu       sync.Mutex
	connects []time.Duration // from the first attempt to the CONNACK
	retries  int
	sent     int
	acked    int
	puback   *latencies
	done     harness.Acked // acknowledged messages, by VIN and seq
	since    int           // acked when takeFigures was called last
	failures []error
}

func newHonestFleet(g *harness.Gateway, tokens map[string]string) *honestFleet {
	config := g.ClientTLS()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(2 * len(tokens))
	return &honestFleet{
		addr: g.MQTTS, config: config, tokens: tokens, stop: make(chan struct{}), puback: newLatencies(), done: harness.Acked{},
	}
}

// start returns when every vehicle has connected once. The time of these connects is not measured.
func (f *honestFleet) start(t *testing.T) {
	t.Helper()
	var first sync.WaitGroup
	first.Add(len(f.tokens))
	n := 0
	for vin, token := range f.tokens {
		n++
		i := n // index of the vehicle
		f.all.Go(func() { f.vehicle(i, vin, token, first.Done) })
	}
	first.Wait()
	f.mu.Lock()
	f.connects, f.retries, f.puback = nil, 0, newLatencies()
	f.mu.Unlock()
}

func (f *honestFleet) end() {
	close(f.stop)
	f.all.Wait()
}

const (
	honestEvery = 500 * time.Millisecond // between messages
	honestStays = 10                     // messages per connection
	honestWaits = check.Patience         // for a CONNACK and each PUBACK
)

// vehicle runs one vehicle; i spreads the fleet over client addresses.
func (f *honestFleet) vehicle(i int, vin, token string, connected func()) {
	once := sync.OnceFunc(connected)
	defer once()
	for stays := 1 + i%honestStays; !stopped(f.stop); stays = honestStays { // staggers the reconnects
		c := f.connect(i, vin, token)
		once()
		if c == nil {
			return
		}
		err := f.work(c, vin, stays)
		_ = c.Conn.Close()
		if err != nil {
			f.fail(fmt.Errorf("%s: %w", vin, err))
			return
		}
	}
}

// connect retries for a while and records the time to the CONNACK. It returns nil if it fails.
func (f *honestFleet) connect(i int, vin, token string) *mqtt.Client {
	begin := time.Now()
	var err error
	for tries := 0; time.Since(begin) < honestWaits; tries++ {
		var c *mqtt.Client
		if c, err = f.try(i, vin, token); err == nil {
			f.mu.Lock()
			f.connects = append(f.connects, time.Since(begin))
			f.retries += tries
			f.mu.Unlock()
			return c
		}
		time.Sleep(100 * time.Millisecond) // back-off
	}
	f.fail(fmt.Errorf("%s could not connect: %w", vin, err))
	return nil
}

func (f *honestFleet) try(i int, vin, token string) (*mqtt.Client, error) {
	d := net.Dialer{Timeout: honestWaits, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%250))}}
	raw, err := d.Dial("tcp", f.addr)
	if err != nil {
		return nil, err
	}
	c := mqtt.New(tls.Client(raw, f.config), mqtt.V4)
	c.Patience = honestWaits
	if err := c.Enter(login(vin, token)); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}

// work publishes the messages of one connection, each after the PUBACK of the previous one.
func (f *honestFleet) work(c *mqtt.Client, vin string, stays int) error {
	for n := 0; n < stays && !stopped(f.stop); n++ {
		seq, begin := f.send(), time.Now()
		payload := fmt.Sprintf(`{"soc":71,"seq":%d,"ts":%d}`, seq, begin.UnixNano())
		if _, err := c.Publish(mqtt.Publish{Topic: "v1/" + vin + "/up/telemetry", Payload: payload, QoS: 1}); err != nil {
			return err
		}
		f.ack(vin, seq, time.Since(begin))
		select {
		case <-f.stop:
		case <-time.After(honestEvery):
		}
	}
	return nil
}

// send counts a message and returns its seq, which increases across the fleet.
func (f *honestFleet) send() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent++
	return int64(f.sent)
}

func (f *honestFleet) ack(vin string, seq int64, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked++
	f.puback.add(took)
	if f.done[vin] == nil {
		f.done[vin] = map[int64]bool{}
	}
	f.done[vin][seq] = true
}

// takeFigures returns the acknowledgements since the last call.
func (f *honestFleet) takeFigures() (acked int, puback *latencies) {
	f.mu.Lock()
	defer f.mu.Unlock()
	acked, puback = f.acked-f.since, f.puback
	f.since, f.puback = f.acked, newLatencies()
	return acked, puback
}

// awaitDelivery waits until Kafka has, for each vehicle, a message acknowledged before the call.
func (f *honestFleet) awaitDelivery(t *testing.T, k *consumer) {
	t.Helper()
	last := map[string]int64{}
	f.mu.Lock()
	for vin, seqs := range f.done {
		for seq := range seqs {
			last[vin] = max(last[vin], seq)
		}
	}
	f.mu.Unlock()
	check.Within(t, check.Patience, "honest telemetry in Kafka", func() error {
		for vin, seq := range last {
			if !k.has(vin, seq) {
				return fmt.Errorf("message %d of %s is missing", seq, vin)
			}
		}
		return nil
	})
}

// audit reports the fleet and compares Kafka with the acknowledgements.
func (f *honestFleet) audit(t *testing.T, k *consumer) {
	t.Helper()
	f.report(t)
	f.awaitDelivery(t, k)
	if err := k.audit(f.done); err != nil {
		t.Error(err)
	}
}

func (f *honestFleet) fail(err error) {
	f.mu.Lock()
	f.failures = append(f.failures, err)
	f.mu.Unlock()
}

// maxConnect is the highest acceptable p99 of an honest vehicle's CONNECT at full length.
const maxConnect = 2 * time.Second

func (f *honestFleet) report(t *testing.T) {
	t.Helper()
	slices.Sort(f.connects)
	if len(f.connects) == 0 {
		t.Fatal("no vehicle connected under attack")
	}
	p := func(q float64) time.Duration {
		return f.connects[int(q*float64(len(f.connects)-1))].Round(time.Millisecond)
	}
	t.Logf("%d honest vehicles: %d CONNECTs, %d attempts repeated, p50 %v, p99 %v, max %v; %d PUBLISHes, %d PUBACKs missing",
		len(f.tokens), len(f.connects), f.retries, p(.5), p(.99), p(1), f.sent, f.sent-f.acked)
	if full() && p(.99) > maxConnect {
		t.Errorf("CONNECT p99 %v", p(.99))
	}
	if f.sent != f.acked || f.sent == 0 {
		t.Errorf("%d of %d PUBLISHes acknowledged", f.acked, f.sent)
	}
	for _, err := range f.failures[:min(5, len(f.failures))] {
		t.Error(err)
	}
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}
