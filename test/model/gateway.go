package model

// eachOfRequest tries every request that a running gateway may send to Redis, and every outcome of one under way.
func (m *search) eachOfRequest(s *state, g uint8, try try) {
	m.eachOfJoining(s, g, try)
	r := &s.Gateways[g].Request
	switch r.Stage {
	case nothing:
		if m.Beside || s.Gateways[g].Joining.Stage == nothing {
			m.eachAsk(s, g, try)
		}
	case asked:
		for i := range uint8(m.Servers) {
			if s.Servers[i].Primary {
				try(step{Kind: lands, Who: g, At: i}, func(t *state) { m.land(t, g, i) })
			}
		}
		if m.Late && s.Gateways[g].Late.Script == idle {
			try(step{Kind: givesUp, Who: g}, func(t *state) {
				t.Gateways[g].Late = t.Gateways[g].Request.Call
				t.Gateways[g].Request = request{}
			})
		}
	case landed:
		if m.confirmed(s, r) {
			try(step{Kind: confirms, Who: g}, func(t *state) { m.confirm(t, g) })
		}
		try(step{Kind: givesUp, Who: g}, func(t *state) { t.Gateways[g].Request = request{} })
	case answered:
		try(step{Kind: stores, Who: g}, func(t *state) { m.store(t, g) })
	case stored:
		try(step{Kind: acts, Who: g}, func(t *state) { m.act(t, g) })
	}
}

// eachOfJoining tries to offer and to join, and every outcome. That does not wait for a request under way.
func (m *search) eachOfJoining(s *state, g uint8, try try) {
	w := &s.Gateways[g]
	if w.Joining.Stage == nothing {
		if !m.mustJoin(s, g) || !m.Beside && w.Request.Stage != nothing {
			return
		}
		sc := join
		if m.Offers && w.Remembers && w.Offered != s.Servers[s.Current].Called {
			sc = offer
		}
		try(step{Kind: asks, Who: g, Call: sc}, func(t *state) { m.ask(t, g, sc, 0) })
		return
	}
	for i := range uint8(m.Servers) {
		if s.Servers[i].Primary {
			try(step{Kind: joins, Who: g, At: i}, func(t *state) { m.landJoining(t, g, i) })
		}
	}
	if m.Late && w.Late.Script == idle {
		try(step{Kind: givesUp, Who: g}, func(t *state) {
			t.Gateways[g].Late = t.Gateways[g].Joining.Call
			t.Gateways[g].Joining = request{}
		})
	}
}

// eachAsk tries the requests of an idle gateway that can make a difference.
func (m *search) eachAsk(s *state, g uint8, try try) {
	w := &s.Gateways[g]
	ask := func(sc script, c uint8) {
		try(step{Kind: asks, Who: g, At: c, Call: sc}, func(t *state) { m.ask(t, g, sc, c) })
	}
	if w.Conn != 0 && w.Epoch == 0 {
		ask(claim, 0)
	}
	if !w.Remembers && m.FreshWaits || s.Gone&bit(g) != 0 {
		return
	}
	first := accept
	if m.SameID {
		first = reserve
	}
	for c := range uint8(m.Commands) {
		ask(first, c)
		if m.Contents {
			try(step{Kind: asks, Who: g, At: c, Call: accept}, func(t *state) {
				m.ask(t, g, accept, c)
				t.Gateways[g].Request.Call.Content = 1
			})
		}
		if w.Conn != 0 && w.Epoch != 0 {
			ask(send, c)
		}
		if w.Results&bit(c) != 0 {
			ask(report, c)
		}
		if s.anywhere(c) {
			ask(cancel, c)
			if m.Looks {
				ask(look, c)
			}
			if s.Expired&bit(c) != 0 {
				ask(expire, c)
			}
		}
	}
}

// anywhere reports whether anything still knows the command.
func (s *state) anywhere(c uint8) bool {
	for i := range s.Servers {
		if s.Servers[i].Data.Commands[c].State != none {
			return true
		}
	}
	return false
}

// mustJoin reports whether Redis shows the gateway that it has to offer or to register.
func (m *search) mustJoin(s *state, g uint8) bool {
	w, v := &s.Gateways[g], &s.Servers[s.Current]
	return !w.Remembers || s.Gone&bit(g) != 0 || v.Data.Open != v.Called && v.Data.Offered[g] != v.Called
}

// everybody returns the members that a gateway remembers.
func (m *search) everybody(s *state) uint8 { return (bit(uint8(m.Gateways)) - 1) &^ s.Gone }

func (m *search) ask(s *state, g uint8, sc script, c uint8) {
	w := &s.Gateways[g]
	r := request{Stage: asked, Call: m.callOf(s, g, sc, c)}
	switch sc {
	case offer:
		m.remember(w)
		w.Joining = r
	case join:
		w.Joining = r
	default:
		w.Request = r
	}
}

// remember reads what a gateway offers. What it has asked for, and is not answered yet, cannot be in it.
func (m *search) remember(w *gateway) {
	w.Offers = w.Known
	r := &w.Request
	switch {
	case r.Call.Script == claim:
	case r.Stage == asked || r.Stage == landed:
		r.Before = true
	case r.Stage == answered && m.OfferAnswers:
		learn(&w.Offers[r.Call.Command], r.Answer.Record)
	}
}

// callOf fills a script's arguments from what the gateway knows.
func (m *search) callOf(s *state, g uint8, sc script, c uint8) call {
	w := &s.Gateways[g]
	k := call{Script: sc, Gateway: g, Command: c}
	switch sc {
	case claim, send:
		k.Since, k.Epoch = w.Conn, w.Epoch
	case join:
		k.Remembers, k.Gen, k.Floor, k.Server, k.Members = w.Remembers, w.Gen, w.Floor, w.Offered, bit(g)
		if w.Remembers {
			k.Members |= m.everybody(s)
		}
		if !m.Offers {
			k.Server = s.Servers[s.Current].Called
		}
	}
	return k
}

// run runs a script at a server, at the server's time.
func (m *search) run(s *state, i uint8, c call) answer {
	v := &s.Servers[i]
	if c.Script == offer {
		return m.offerAll(s, i, c)
	}
	c.Expired = s.Expired&bit(c.Command) != 0
	if c.Script != claim {
		return m.script(&v.Data, v.Called, c)
	}
	if c.Time = beginning(c.Since); !m.Beginning {
		c.Time = beginning(s.Connects)
	}
	a := m.script(&v.Data, v.Called, c)
	if m.Notices && a.Notified != 0 && s.Gateways[a.Notified-1].Up {
		s.Gateways[a.Notified-1].Notice = a.Epoch
	}
	a.Notified = 0
	return a
}

func (m *search) script(d *data, called uint8, c call) answer {
	before := *d
	a := m.apply(d, called, c)
	if m.transition != nil {
		m.transition(Transition{before: before, after: *d, called: called, call: c, answer: a})
	}
	return a
}

// offerAll offers all commands that the gateway remembers, as one request.
func (m *search) offerAll(s *state, i uint8, c call) answer {
	for n, r := range s.Gateways[c.Gateway].Offers {
		if r.State != none {
			c.Command, c.Record = uint8(n), r
			m.script(&s.Servers[i].Data, s.Servers[i].Called, c)
		}
	}
	return answer{}
}

// land runs a gateway's request and gives it the answer. An answer that is not published needs no confirmation.
func (m *search) land(s *state, g, i uint8) {
	w, v := &s.Gateways[g], &s.Servers[i]
	c := w.Request.Call
	before, asksBefore := v.Data, w.Request.Before
	a := m.run(s, i, c)
	s.SentLate = s.SentLate || c.Script == send && a.Verdict == ok && s.Expired&bit(c.Command) != 0 && before.Commands[c.Command].State == queued
	w.Request = request{}
	switch c.Script {
	case claim:
		if m.claimed(s, g, c, a) {
			w.Request = request{Stage: landed, Call: c, Answer: a, At: i, History: v.History}
		}
		return
	case reserve:
		if a.Verdict == ok {
			w.Request = request{Stage: asked, Call: call{Script: accept, Gateway: g, Command: c.Command, Reserved: v.Called}}
		}
		return
	}
	if a.Verdict != ok && (a.Verdict != already || c.Script == send) {
		if c.Script == report && a.Verdict == missing {
			w.Results &^= bit(c.Command)
		}
		return
	}
	w.Request = request{Stage: landed, Call: c, Answer: a, At: i, History: v.History, Before: asksBefore}
	if c.Script == accept && a.Verdict == ok && s.RedisLost && s.DiskLost != 0 && s.memoryless(c.Command) {
		s.Reused |= bit(c.Command)
	}
	if before == v.Data && !m.ReadsWrite {
		w.Request.Acks = 0xff
	}
}

// landJoining runs a gateway's offer or join.
func (m *search) landJoining(s *state, g, i uint8) {
	w := &s.Gateways[g]
	c := w.Joining.Call
	w.Joining = request{}
	a := m.run(s, i, c)
	if c.Script == offer {
		w.Offered = s.Servers[i].Called
		return
	}
	m.joined(s, g, a)
}

// claimed handles the answer that a vehicle is the gateway's own. It may send at once; it reports the connection once
// the claim is confirmed.
func (m *search) claimed(s *state, g uint8, c call, a answer) bool {
	w := &s.Gateways[g]
	switch {
	case w.Conn != c.Since: // it has ended
		return false
	case a.Verdict == older:
		m.end(s, g)
		return false
	}
	s.EpochBack = s.EpochBack || a.Epoch < w.Epoch
	w.Epoch = a.Epoch
	return true
}

// memoryless reports whether a command was reported or executed and no gateway remembers it.
func (s *state) memoryless(c uint8) bool {
	for g := range s.Gateways {
		if s.Gateways[g].Known[c].State != none {
			return false
		}
	}
	return s.Reported[c] != 0 || s.Accepted[c] != 0 || s.Executed&bit(c) != 0
}

// announce reports a connection with its epoch. If its gateway dies, the others learn from Redis that it has ended.
func (s *state) announce(g uint8, c call, a answer) {
	s.Unknown = s.Unknown || s.Servers[s.Current].Data.Epoch < a.Epoch && !s.RedisLost
	if s.At == g && s.Conn == c.Since {
		s.Ours = a.Epoch
	} else {
		s.Earlier = max(s.Earlier, a.Epoch)
	}
}

// end ends a connection with 0x8E.
func (m *search) end(s *state, g uint8) {
	w := &s.Gateways[g]
	s.WrongEnd = s.WrongEnd || s.At == g && s.Conn == w.Conn
	w.Conn, w.Epoch = 0, 0
}

func (m *search) joined(s *state, g uint8, a answer) {
	w := &s.Gateways[g]
	switch a.Verdict {
	case moved:
		w.Offered = 0
		return
	case empty:
		return
	case ok:
		w.Remembers = true
		s.Gone &^= bit(g)
	}
	if w.Remembers {
		w.Gen, w.Floor = max(w.Gen, a.Gen), max(w.Floor, a.Floor)
	}
}

// sweepFinds reports whether comparing claims finds a difference.
func (m *search) sweepFinds(s *state, g, i uint8) bool {
	w, d := &s.Gateways[g], &s.Servers[i].Data
	if w.Conn == 0 || w.Epoch == 0 || w.Request.Stage != nothing {
		return false
	}
	return m.laterClaim(d, w) || m.Reclaim && !ours(d, g, w)
}

// ours reports whether Redis has the gateway's claim.
func ours(d *data, g uint8, w *gateway) bool {
	return d.Node == g+1 && d.Since == w.Conn && d.Epoch == w.Epoch
}

func (m *search) laterClaim(d *data, w *gateway) bool {
	if !m.YoungerConnection {
		return d.Epoch > w.Epoch && d.Since != w.Conn
	}
	return d.Since > w.Conn
}

// sweep compares the gateway's claim with the claim in Redis.
func (m *search) sweep(s *state, g, i uint8) {
	if m.laterClaim(&s.Servers[i].Data, &s.Gateways[g]) {
		m.end(s, g)
		return
	}
	m.ask(s, g, claim, 0)
}

// hear handles the notice of a later claim.
func (m *search) hear(s *state, g uint8) {
	w := &s.Gateways[g]
	n := w.Notice
	w.Notice = 0
	if n > w.Epoch {
		m.end(s, g)
	}
}

// confirmed reports whether enough replicas have the script's changes.
func (m *search) confirmed(s *state, r *request) bool {
	wait := m.WaitBeforeAnswer
	switch r.Call.Script {
	case send:
		wait = m.WaitBeforeWire
	case claim:
		wait = m.ConfirmEpoch
	}
	if !wait {
		return true
	}
	if m.SameServerAfterWait && m.Servers > 1 && s.Servers[r.At].History != r.History { // without replicas nothing is asked after the script
		return false
	}
	all := (bit(uint8(m.Servers)) - 1) &^ bit(r.At)
	if !m.WaitForAll && all != 0 {
		return r.Acks&all != 0
	}
	return r.Acks&all == all
}

// confirm gives a gateway its confirmed answer.
func (m *search) confirm(s *state, g uint8) {
	r := &s.Gateways[g].Request
	if r.Before && m.DropAnswers {
		*r = request{}
		return
	}
	r.Stage = answered
	if !m.Beside {
		m.store(s, g)
	}
}

// store writes a confirmed answer to the disk, with the event of what the gateway has decided.
func (m *search) store(s *state, g uint8) {
	w := &s.Gateways[g]
	w.Request.Stage = stored
	if m.Store && w.Request.Call.Script != claim {
		now := w.Request.Answer.Record
		now.Told = now.Told || w.Request.decidesEnd()
		learn(&w.Known[w.Request.Call.Command], now)
	}
}

// learn puts a command into a gateway's memory, unless that has a later state.
func learn(known *record, now record) {
	if now.State < known.State {
		return
	}
	now.Told = now.Told || known.Told && known.State == now.State
	*known = now
}

// decidesEnd reports whether the gateway publishes the end that it is answered.
func (r *request) decidesEnd() bool {
	switch r.Call.Script {
	case cancel, expire:
		return r.Answer.Verdict == ok
	case report:
		return r.Answer.Record.State >= late
	}
	return false
}

// publishStored publishes the event that a gateway has on its disk when its process ends.
func (m *search) publishStored(s *state, g uint8) {
	if r := &s.Gateways[g].Request; m.Store && r.Stage == stored && r.decidesEnd() && s.Forgotten&bit(r.Call.Command) == 0 {
		s.report(r.Call.Command, r.Answer.Record.State)
		s.Published |= bit(r.Call.Command)
	}
}

// act reports a stored change, or sends it to the vehicle. The vehicle executes a command once.
func (m *search) act(s *state, g uint8) {
	w := &s.Gateways[g]
	done, c, a := w.Request, w.Request.Call, w.Request.Answer
	w.Request = request{}
	if s.Forgotten&bit(c.Command) != 0 && c.Script != claim && c.Script != accept && c.Script != send {
		return
	}
	switch c.Script {
	case send:
		if w.Conn == c.Since && s.At == g && s.Conn == w.Conn && s.Executed&bit(c.Command) == 0 {
			s.Executed |= bit(c.Command)
			s.Results |= bit(c.Command)
		}
		return
	case claim:
		s.announce(g, c, a)
		return
	case accept:
		s.Accepted[c.Command] |= bit(g)
		s.Contents[c.Command] |= bit(c.Content)
	case report:
		w.Results &^= bit(c.Command)
	}
	if a.Record.State.final() {
		s.report(c.Command, a.Record.State)
	}
	if done.decidesEnd() {
		s.Published |= bit(c.Command)
		m.run(s, s.Current, call{Script: told, Gateway: g, Command: c.Command})
	}
}
