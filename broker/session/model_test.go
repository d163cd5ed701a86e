package session

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"cellgate/broker/frame"
	"cellgate/test/check"
)

// modelClient is a correct MQTT client. Its session survives its connections and the gateway.
type modelClient struct {
	t    *testing.T
	name string
	e    *env
	rnd  *rand.Rand

	c          *conn // nil while disconnected
	receiveMax int
	held       map[uint16]bool // QoS 2 identifiers between PUBLISH and PUBREL
	open       map[uint16]bool // unsettled PUBLISH packets of this connection
	answers    []func()        // acknowledgements not sent yet
	once       []int           // QoS 2 messages in the order of their delivery
	first      []int           // QoS 1 messages in the order of their first delivery
	known      map[int]bool
	zero       int // last QoS 0 message
}

func (mc *modelClient) connect() {
	mc.receiveMax = 1 + mc.rnd.IntN(6)
	mc.open, mc.answers = map[uint16]bool{}, nil
	mc.c, _ = mc.e.attach(mc.name, func(a *Attach) { a.ReceiveMaximum = uint16(mc.receiveMax) })
	if mc.rnd.IntN(3) == 0 {
		mc.c.setRoom(mc.rnd.IntN(4))
	}
}

func (mc *modelClient) drop() {
	if mc.c != nil {
		mc.c.detach(mc.rnd.IntN(2) == 0)
		mc.c = nil
	}
}

func (mc *modelClient) read() {
	if mc.c == nil {
		return
	}
	mc.c.mu.Lock()
	frames := mc.c.frames
	mc.c.frames = nil
	mc.c.mu.Unlock()
	for _, b := range frames {
		mc.handle(parse(mc.t, b, mc.c.version))
	}
}

func (mc *modelClient) handle(f sentFrame) {
	c := mc.c
	if f.typ == frame.TypePubrel {
		delete(mc.held, f.id)
		mc.answers = append(mc.answers, func() { delete(mc.open, f.id); c.s.Pubcomp(f.id, 0) })
		return
	}
	n, err := strconv.Atoi(f.payload)
	check.OK(mc.t, err)
	if f.qos == 0 {
		if n <= mc.zero {
			mc.t.Fatalf("%s: QoS 0 message %d after %d", mc.name, n, mc.zero)
		}
		mc.zero = n
		return
	}
	if mc.open[f.id] {
		mc.t.Fatalf("%s: identifier %d used twice on one connection", mc.name, f.id)
	}
	if mc.open[f.id] = true; len(mc.open) > mc.receiveMax {
		mc.t.Fatalf("%s: %d messages in flight, Receive Maximum is %d", mc.name, len(mc.open), mc.receiveMax)
	}
	if f.qos == 1 {
		if !mc.known[n] {
			mc.known[n] = true
			mc.first = append(mc.first, n)
		}
		mc.answers = append(mc.answers, func() { delete(mc.open, f.id); c.s.Puback(f.id, 0) })
		return
	}
	if !mc.held[f.id] {
		mc.held[f.id] = true
		mc.once = append(mc.once, n)
	}
	mc.answers = append(mc.answers, func() { c.s.Pubrec(f.id, 0) })
}

// answer sends some of the acknowledgements, not always in order.
func (mc *modelClient) answer(all bool) {
	for mc.c != nil && len(mc.answers) > 0 && (all || mc.rnd.IntN(3) > 0) {
		i := 0
		if mc.rnd.IntN(4) == 0 {
			i = mc.rnd.IntN(len(mc.answers))
		}
		fn := mc.answers[i]
		mc.answers = append(mc.answers[:i:i], mc.answers[i+1:]...)
		fn()
	}
}

// room unblocks a stalled connection.
func (mc *modelClient) room() {
	if mc.c != nil {
		mc.c.setRoom(-1)
		mc.c.s.Writable()
	}
}

// TestModel plays random traffic against clients that follow the protocol, through reconnects, restarts and kills.
// Every client must get every message of QoS 1 at least once and of QoS 2 exactly once, each QoS in the order of
// publication, and never exceed its Receive Maximum.
func TestModel(t *testing.T) {
	t.Parallel()
	seeds := 16
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			play(t, rand.New(rand.NewPCG(uint64(seed), 1)))
		})
	}
}

func play(t *testing.T, rnd *rand.Rand) {
	e := newEnv(t, func(o *Options) { o.MaxInflight = 1 + rnd.IntN(8) })
	clients := make([]*modelClient, 2)
	for i := range clients {
		mc := &modelClient{t: t, name: fmt.Sprint("client", i), e: e, rnd: rnd, held: map[uint16]bool{}, known: map[int]bool{}}
		mc.connect()
		mc.c.setRoom(-1)
		mc.c.subscribe(sub("t/#", 2), sub(fmt.Sprintf("own/%d", i), 1))
		clients[i] = mc
	}
	published := [3][]int{}
	for n := 1; n <= 250; n++ {
		qos := byte(rnd.IntN(3))
		published[qos] = append(published[qos], n)
		e.say("t/"+strconv.Itoa(rnd.IntN(3)), qos, strconv.Itoa(n))
		mc := clients[rnd.IntN(2)]
		mc.read()
		mc.answer(false)
		switch rnd.IntN(24) {
		case 0:
			mc.drop()
		case 1, 2:
			if mc.c == nil {
				mc.connect()
			} else {
				mc.room()
			}
		case 3:
			e.checkpoint()
		case 4:
			for _, mc := range clients {
				mc.read()
				mc.c = nil
			}
			e.kill()
		case 5:
			mc.connect() // a takeover
		}
	}
	for _, mc := range clients {
		mc.drain()
		mc.check(published)
	}
}

// drain waits for all due work.
func (mc *modelClient) drain() {
	if mc.c == nil {
		mc.connect()
	}
	mc.room()
	check.Eventually(mc.t, "all that waits for "+mc.name+" comes", func() bool {
		mc.read()
		mc.answer(true)
		info, _ := mc.e.m.Get(mc.name)
		return info.Queued+info.Inflight == 0
	})
}

func (mc *modelClient) check(published [3][]int) {
	mc.t.Helper()
	if fmt.Sprint(mc.first) != fmt.Sprint(published[1]) {
		mc.t.Errorf("%s: QoS 1 came as %v, published were %v", mc.name, mc.first, published[1])
	}
	if fmt.Sprint(mc.once) != fmt.Sprint(published[2]) {
		mc.t.Errorf("%s: QoS 2 came as %v, published were %v", mc.name, mc.once, published[2])
	}
	if n := mc.e.m.totalBytes.Load(); n < 0 {
		mc.t.Errorf("%d bytes accounted for", n)
	}
}
