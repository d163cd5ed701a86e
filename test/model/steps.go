package model

import (
	"strconv"
	"strings"
)

// kind is the kind of a step.
type kind uint8

const (
	connects kind = iota
	asks
	lands
	joins
	confirms
	stores
	acts
	speaks
	givesUp
	landsLate
	copies
	promotes
	follows
	sweeps
	hears
	drops
	kills
	loses
	restarts
	flushes
	backs
	restores
	expires
	removes
	forgets
)

// step is one event: its kind, its gateway or command, and its server or script.
type step struct {
	Kind kind
	Who  uint8
	At   uint8
	Call script
}

// String returns the step as a counterexample shows it.
func (s step) String() string {
	told := map[kind]string{
		connects:  "the vehicle connects to gateway G",
		lands:     "gateway G's script runs at server AT",
		joins:     "gateway G's offer or join runs at server AT",
		confirms:  "gateway G has its answer confirmed",
		stores:    "gateway G has its answer on its disk",
		acts:      "gateway G tells, or sends to the vehicle",
		speaks:    "the vehicle publishes its results",
		givesUp:   "gateway G gives up to wait",
		landsLate: "what gateway G has given up runs at server AT",
		copies:    "server N copies its primary",
		promotes:  "server N is promoted",
		follows:   "server N becomes a replica of the present primary",
		sweeps:    "gateway G compares claims at server AT",
		hears:     "gateway G hears that another one has the vehicle",
		drops:     "gateway G notices that its connection is dead",
		kills:     "gateway G is killed",
		loses:     "gateway G is killed and loses its disk",
		restarts:  "gateway G starts again",
		flushes:   "Redis is flushed",
		backs:     "a backup of Redis is taken",
		restores:  "Redis is restored from the backup",
		expires:   "command N expires",
		removes:   "command N is removed, keep_for being over",
		forgets:   "an operator forgets gateway G",
		asks:      "gateway G asks: SCRIPT command AT",
	}[s.Kind]
	if s.Kind == asks && (s.Call == claim || s.Call == offer || s.Call == join) {
		told = "gateway G asks: SCRIPT"
	}
	return strings.NewReplacer("gateway G", "gateway "+string('A'+rune(s.Who)), "AT", strconv.Itoa(int(s.At)+1),
		" N ", " "+strconv.Itoa(int(s.Who)+1)+" ", "SCRIPT", s.Call.String()).Replace(told)
}

// each calls yield with every possible next step.
func (m *search) each(s *state, yield func(step, state)) {
	try := func(st step, do func(*state)) {
		t := *s
		do(&t)
		yield(st, t)
	}
	for g := range uint8(m.Gateways) {
		m.eachOf(s, g, try)
	}
	m.eachOfRedis(s, try)
	if s.Conn != 0 && s.Results != 0 && s.Gateways[s.At].Conn == s.Conn {
		try(step{Kind: speaks}, func(t *state) { t.Gateways[t.At].Results |= t.Results; t.Results = 0 })
	}
	for c := range uint8(m.Commands) {
		if m.Expiry && s.Expired&bit(c) == 0 && s.Servers[s.Current].Data.Commands[c].State != none {
			try(step{Kind: expires, Who: c}, func(t *state) { t.Expired |= bit(c) })
		}
		if m.Removal && s.Expired&bit(c) != 0 && s.Forgotten&bit(c) == 0 && s.Servers[s.Current].Data.Commands[c].State.final() {
			try(step{Kind: removes, Who: c}, func(t *state) { t.remove(c) })
		}
	}
}

// remove forgets a command everywhere, after keep_for by every clock.
func (s *state) remove(c uint8) {
	s.Forgotten |= bit(c)
	for i := range s.Servers {
		s.Servers[i].Data.Commands[c] = record{}
	}
	for g := range s.Gateways {
		s.Gateways[g].Known[c] = record{}
	}
}

type try func(step, func(*state))

// eachOf tries every step at a gateway.
func (m *search) eachOf(s *state, g uint8, try try) {
	w := &s.Gateways[g]
	if !w.Up {
		try(step{Kind: restarts, Who: g}, func(t *state) { t.Gateways[g].Up = true })
		if s.Forgets < uint8(m.Forgets) && s.Gone&bit(g) == 0 && m.canForget(s, g) {
			try(step{Kind: forgets, Who: g}, func(t *state) { m.forgotten(t, g) })
		}
	} else {
		m.eachOfLiving(s, g, try)
	}
	if w.Late.Script == idle {
		return
	}
	for i := range uint8(m.Servers) {
		if s.Servers[i].Primary {
			try(step{Kind: landsLate, Who: g, At: i}, func(t *state) {
				c := t.Gateways[g].Late
				t.Gateways[g].Late = call{}
				m.run(t, i, c)
			})
		}
	}
}

func (m *search) eachOfLiving(s *state, g uint8, try try) {
	w := &s.Gateways[g]
	if s.Connects < uint8(m.Connects) {
		try(step{Kind: connects, Who: g}, func(t *state) { t.connect(g) })
	}
	if w.Conn != 0 && (s.Conn != w.Conn || s.At != g) {
		try(step{Kind: drops, Who: g}, func(t *state) { t.Gateways[g].Conn, t.Gateways[g].Epoch = 0, 0 })
	}
	if s.Kills < uint8(m.Kills) {
		try(step{Kind: kills, Who: g}, func(t *state) { t.Kills++; m.kill(t, g) })
	}
	if s.Disks < uint8(m.Disks) {
		try(step{Kind: loses, Who: g}, func(t *state) { t.Disks++; m.kill(t, g); t.loseDisk(g) })
	}
	for i := range uint8(m.Servers) {
		if s.Servers[i].Primary && m.sweepFinds(s, g, i) {
			try(step{Kind: sweeps, Who: g, At: i}, func(t *state) { m.sweep(t, g, i) })
		}
	}
	if w.Notice != 0 && w.Epoch != 0 && w.Request.Stage == nothing {
		try(step{Kind: hears, Who: g}, func(t *state) { m.hear(t, g) })
	}
	m.eachOfRequest(s, g, try)
}

// connect moves the vehicle. The other gateway may keep its previous connection for a long time.
func (s *state) connect(g uint8) {
	s.Connects++
	s.At, s.Conn = g, s.Connects
	s.Earlier, s.Ours = max(s.Earlier, s.Ours), 0
	s.Gateways[g].Conn, s.Gateways[g].Epoch = s.Conn, 0
}

// kill ends a gateway's process. Its requests may still arrive.
func (m *search) kill(s *state, g uint8) {
	w := &s.Gateways[g]
	if m.Late && w.Late.Script == idle {
		switch asked {
		case w.Request.Stage:
			w.Late = w.Request.Call
		case w.Joining.Stage:
			w.Late = w.Joining.Call
		}
	}
	m.publishStored(s, g)
	w.Up, w.Conn, w.Epoch, w.Offered, w.Request, w.Joining, w.Notice = false, 0, 0, 0, request{}, request{}, 0
}

func (s *state) loseDisk(g uint8) {
	w := &s.Gateways[g]
	w.Remembers, w.Gen, w.Floor, w.Known, w.Results = false, 0, 0, [maxCommands]record{}, 0
	s.DiskLost |= bit(g)
}

// forgotten is `cellgate gateways forget`: a script at the present primary.
func (m *search) forgotten(s *state, g uint8) {
	s.Forgets++
	s.Gone |= bit(g)
	m.run(s, s.Current, call{Script: forget, Gateway: g, Remembers: true, Members: m.everybody(s)})
}

// canForget reports whether there is a member that an operator can ask to forget another one.
func (m *search) canForget(s *state, gone uint8) bool {
	for g := range uint8(m.Gateways) {
		if w := &s.Gateways[g]; g != gone && w.Up && w.Remembers && s.Gone&bit(g) == 0 {
			return true
		}
	}
	return false
}

// eachOfRedis tries every step of the servers.
func (m *search) eachOfRedis(s *state, try try) {
	for i := range uint8(m.Servers) {
		v := &s.Servers[i]
		if !v.Primary && s.Servers[v.Follows].Primary && m.copyMatters(s, i) {
			try(step{Kind: copies, Who: i}, func(t *state) { m.copy(t, i) })
		}
		if !v.Primary && s.Promotions < uint8(m.Promotions) {
			try(step{Kind: promotes, Who: i}, func(t *state) { t.Promotions++; t.promote(i) })
		}
		if i != s.Current && (v.Primary || v.Follows != s.Current) {
			try(step{Kind: follows, Who: i}, func(t *state) { t.follow(i) })
		}
	}
	if m.Losses == 0 {
		return
	}
	if !s.Backed {
		try(step{Kind: backs}, func(t *state) { t.Backed, t.Backup = true, t.Servers[t.Current].Data })
	}
	if s.Losses == uint8(m.Losses) {
		return
	}
	try(step{Kind: flushes}, func(t *state) {
		t.Losses++
		t.RedisLost = true
		t.Servers[t.Current].Data = data{}
		if m.Salt {
			t.Named++
			t.Servers[t.Current].Called = t.Named
		}
	})
	if s.Backed {
		try(step{Kind: restores}, func(t *state) { t.restore(m.Servers) })
	}
}

func (s *state) promote(i uint8) {
	s.Named++
	s.Current = i
	s.Servers[i].Primary, s.Servers[i].Called, s.Servers[i].History = true, s.Named, s.Named
}

// follow makes a server a replica of the present primary: data that only it had is lost.
func (s *state) follow(i uint8) {
	v := &s.Servers[i]
	v.Primary, v.Called, v.History, v.Follows, v.Data = false, 0, 0, s.Current, s.Servers[s.Current].Data
}

func (s *state) restore(servers int) {
	s.Losses++
	s.RedisLost = true
	s.Restored = true
	s.Servers[s.Current].Data = s.Backup
	s.promote(s.Current)
	for i := range uint8(servers) {
		if i != s.Current {
			s.follow(i)
		}
	}
}

// copyMatters reports whether a copy changes the replica's data, or completes a wait.
func (m *search) copyMatters(s *state, i uint8) bool {
	v := &s.Servers[i]
	if v.Data != s.Servers[v.Follows].Data {
		return true
	}
	for g := range s.Gateways {
		if r := &s.Gateways[g].Request; r.Stage == landed && m.acknowledges(s, r, i) && r.Acks&bit(i) == 0 {
			return true
		}
	}
	return false
}

// acknowledges reports whether the acknowledgement of replica i counts for a request: its data must be of the history
// in which the script ran. WAIT cannot tell that, because it only counts bytes.
func (m *search) acknowledges(s *state, r *request, i uint8) bool {
	p := s.Servers[i].Follows
	return r.At == p && (r.History == s.Servers[p].History || !m.SameServerAfterWait)
}

func (m *search) copy(s *state, i uint8) {
	s.Servers[i].Data = s.Servers[s.Servers[i].Follows].Data
	for g := range s.Gateways {
		if r := &s.Gateways[g].Request; r.Stage == landed && m.acknowledges(s, r, i) {
			r.Acks |= bit(i)
		}
	}
}
