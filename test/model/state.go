package model

// stage is the progress of a request.
type stage uint8

const (
	nothing  stage = iota
	asked          // on its way to Redis
	landed         // the script has run; its caller waits for the replicas
	answered       // confirmed, in the memory of the gateway alone
	stored         // on the disk: reported or sent next
)

// request is a script that a gateway has called.
type request struct {
	Stage  stage
	Call   call
	Answer answer
	// At is the server where it arrived, History that server's history then, Acks the replicas that have its change.
	At, History, Acks uint8
	// Before: it began before the gateway read what it offers.
	Before bool
}

// gateway is a gateway's memory and disk.
type gateway struct {
	Up bool
	// Conn is the connection that it believes to have, 0 for none. Epoch is that of its claim, 0 before it has one.
	Conn, Epoch uint8
	// Offered is the server that received its offers.
	Offered uint8
	// On the disk: the commands that it remembers, whether it remembers any, and results in the journal.
	Remembers  bool
	Gen, Floor uint8
	Known      [maxCommands]record
	Results    uint8

	Request request
	// Joining is its offer or join, beside the request. Offers is what it has read for the offer.
	Joining request
	Offers  [maxCommands]record
	Late    call // abandoned, not arrived
	// Notice is the epoch of the last claim that it was notified of.
	Notice uint8
}

// server is a Redis server.
type server struct {
	Primary bool  // it believes that it is the primary
	Called  uint8 // its name; changes with every promotion, restart and flush
	History uint8 // the same without flushes
	Follows uint8
	Data    data
}

// state is one moment of a history.
type state struct {
	Gateways [maxGateways]gateway
	Servers  [maxServers]server
	Backup   data
	Current  uint8 // the server that was promoted last
	Named    uint8 // names given to servers

	// The vehicle: its connection and gateway, the commands that it has executed, and results that it has not
	// published.
	At, Conn, Connects uint8
	Executed, Results  uint8

	Expired   uint8 // expired commands
	Forgotten uint8 // commands removed after keep_for
	Reported  [maxCommands]uint16
	Published uint8              // commands whose end has an event
	Accepted  [maxCommands]uint8 // gateways that answered so
	// Earlier is the highest epoch reported for a previous connection of the vehicle, Ours the epoch of the present
	// one.
	Earlier, Ours uint8
	// WrongEnd: a connection was ended for an older one. SentLate: an expired command was sent for the first time.
	// Unknown: a connection was reported that Redis does not know. EpochBack: a connection's epoch was followed by an earlier one.
	WrongEnd, SentLate, Unknown, EpochBack bool
	// Contents of accepted commands, as bits.
	Contents [maxCommands]uint8
	// Reused: commands that everything had forgotten when their id was accepted again. They are other commands.
	Reused uint8

	DiskLost  uint8 // gateways
	Gone      uint8 // gateways forgotten by an operator
	RedisLost bool
	// Restored: a backup may have a claim that was released later, and keeps its epoch (DECISIONS.md of broker/cell).
	Restored bool
	Backed   bool

	Promotions, Losses, Kills, Disks, Forgets uint8 // used up
}

func bit(n uint8) uint8 { return 1 << n }

// beginning returns the time at which the vehicle opened a connection. Between two connections there is more time than
// a connection has epochs.
func beginning(conn uint8) uint8 { return 8 * conn }

// first is the cell at rest: all gateways registered, the first server open.
func first(c Case) state {
	var s state
	for g := range c.Gateways {
		s.Gateways[g] = gateway{Up: true, Remembers: true, Gen: 1}
		s.Servers[0].Data.Members |= bit(uint8(g))
	}
	s.Named = 1
	s.Servers[0].Primary, s.Servers[0].Called, s.Servers[0].History = true, 1, 1
	s.Servers[0].Data.Open, s.Servers[0].Data.Gen = 1, 1
	if d := &s.Servers[0].Data; c.InDoubt {
		d.Gen, d.Floor, d.Doubt, d.Commands[0] = 2, 2, 2, record{State: queued, Gen: 1}
	}
	for i := range c.Servers {
		s.Servers[i].Data = s.Servers[0].Data
	}
	return s
}

// tell records a published state of a command.
func (s *state) report(c uint8, st status) { s.Reported[c] |= 1 << st }

func (s *state) reported(c uint8, st status) bool { return s.Reported[c]&(1<<st) != 0 }

// broken returns the promise that the state breaks, "" for none.
func (s *state) broken() string {
	if s.WrongEnd {
		return "a connection is ended for one that is older"
	}
	if s.Unknown {
		return "a connection is reported that Redis does not know: if its gateway dies, nobody reports its end"
	}
	if s.SentLate {
		return "a command is sent after it has expired"
	}
	for g := range s.Gateways {
		if w := &s.Gateways[g]; w.Conn < s.Connects && w.Epoch >= beginning(w.Conn+1) {
			return "the epoch of a connection is later than the beginning of the next one"
		}
	}
	if s.EpochBack {
		return "a connection's records get an earlier epoch than those before"
	}
	for c := range uint8(maxCommands) {
		executed := s.Executed&bit(c) != 0
		switch {
		case s.Reused&bit(c) != 0:
		case executed && s.reported(c, cancelled):
			return "a command is cancelled and executed"
		case executed && s.reported(c, unsent):
			return "a command is expired unsent and executed"
		case s.Contents[c] == 3:
			return "two commands are accepted under one id"
		case s.finals(c) > 1:
			return "a command has two final states"
		}
	}
	return ""
}

// finals counts the published final states of a command. An unclear one has none that is known, and a late one expired
// before.
func (s *state) finals(c uint8) int {
	n := 0
	for _, st := range []status{cancelled, unsent, unanswered, done} {
		if s.reported(c, st) {
			n++
		}
	}
	if s.reported(c, late) && !s.reported(c, unanswered) && !s.reported(c, unclear) {
		n++
	}
	return n
}

// key identifies a state; equal gateways may be swapped, and so may equal commands. Gateways differ only by their
// number, which decides nothing, because no two connections have the same age.
func (m *search) key(s *state) [2]uint64 {
	best := [2]uint64{^uint64(0), ^uint64(0)}
	for _, order := range m.orders {
		for swapped := range max(1, m.Commands) {
			t := s.permuted(order)
			if swapped == 1 {
				t.swapCommands()
			}
			if k := m.hash(&t); k[0] < best[0] || k[0] == best[0] && k[1] < best[1] {
				best = k
			}
		}
	}
	return best
}

// order renumbers the gateways.
type order [maxGateways]uint8

func (o order) mask(m uint8) (out uint8) {
	for g, n := range o {
		if m&bit(uint8(g)) != 0 {
			out |= bit(n)
		}
	}
	return out
}

func (o order) call(c *call) {
	if c.Script != idle {
		c.Gateway, c.Members = o[c.Gateway], o.mask(c.Members)
	}
}

func (o order) data(d *data) {
	offered := d.Offered
	for g, n := range o {
		d.Offered[n] = offered[g]
	}
	d.Members = o.mask(d.Members)
	if d.Node != 0 {
		d.Node = o[d.Node-1] + 1
	}
}

func (s *state) permuted(o order) state {
	if o == (order{0, 1, 2}) {
		return *s
	}
	t := *s
	for g, n := range o {
		t.Gateways[n] = s.Gateways[g]
		o.call(&t.Gateways[n].Request.Call)
		o.call(&t.Gateways[n].Joining.Call)
		o.call(&t.Gateways[n].Late)
	}
	for i := range t.Servers {
		o.data(&t.Servers[i].Data)
	}
	o.data(&t.Backup)
	if t.Conn != 0 {
		t.At = o[t.At]
	}
	for c := range t.Accepted {
		t.Accepted[c] = o.mask(t.Accepted[c])
	}
	t.DiskLost, t.Gone = o.mask(t.DiskLost), o.mask(t.Gone)
	return t
}

func (s *state) swapCommands() {
	mask := func(m *uint8) { *m = *m&1<<1 | *m>>1&1 }
	holder := func(m *uint8) {
		if *m != 0 {
			*m = 3 - *m
		}
	}
	one := func(c *call) {
		switch c.Script {
		case reserve, accept, send, report, cancel, expire, look:
			c.Command = 1 - c.Command
		}
	}
	for g := range s.Gateways {
		w := &s.Gateways[g]
		w.Known[0], w.Known[1] = w.Known[1], w.Known[0]
		w.Offers[0], w.Offers[1] = w.Offers[1], w.Offers[0]
		mask(&w.Results)
		one(&w.Request.Call)
		one(&w.Late)
	}
	for i := range s.Servers {
		d := &s.Servers[i].Data
		d.Commands[0], d.Commands[1] = d.Commands[1], d.Commands[0]
		holder(&d.Holder)
	}
	holder(&s.Backup.Holder)
	s.Backup.Commands[0], s.Backup.Commands[1] = s.Backup.Commands[1], s.Backup.Commands[0]
	for _, m := range []*uint8{&s.Executed, &s.Results, &s.Expired, &s.Forgotten, &s.Reused, &s.Published} {
		mask(m)
	}
	s.Reported[0], s.Reported[1] = s.Reported[1], s.Reported[0]
	s.Accepted[0], s.Accepted[1] = s.Accepted[1], s.Accepted[0]
	s.Contents[0], s.Contents[1] = s.Contents[1], s.Contents[0]
}
