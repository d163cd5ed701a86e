package model

// atRest ends all faults, does the remaining work, and returns the promise that is then broken.
func (m *search) atRest(s state) string {
	quiet := *m
	quiet.transition = nil
	quiet.settle(&s)
	if b := s.broken(); b != "" {
		return b + " (at rest)"
	}
	return quiet.checkRest(&s)
}

// settle continues a history without faults: requests under way are lost, every gateway runs and does its work.
func (m *search) settle(s *state) {
	for i := range uint8(m.Servers) {
		if i != s.Current {
			s.follow(i)
		}
	}
	for g := range uint8(m.Gateways) {
		w := &s.Gateways[g]
		m.publishStored(s, g)
		w.Up, w.Request, w.Joining, w.Late = true, request{}, request{}, call{}
		if w.Conn != s.Conn || s.At != g {
			w.Conn, w.Epoch = 0, 0
		}
	}
	if s.Conn == 0 || s.Gateways[s.At].Conn != s.Conn {
		s.connect(0)
	}
	for range 2 { // a gateway without memory joins again after the others have offered
		for g := range uint8(m.Gateways) {
			m.rejoin(s, g)
		}
	}
	for range 2 { // a gateway whose epoch was taken claims twice
		m.reclaim(s)
	}
	for c := range uint8(m.Commands) {
		m.finish(s, c)
	}
}

func (m *search) now(s *state, g uint8, sc script, c uint8) {
	if m.ask(s, g, sc, c); sc == offer || sc == join {
		m.landJoining(s, g, s.Current)
	} else {
		m.land(s, g, s.Current)
	}
	for i := range uint8(m.Servers) {
		if i != s.Current {
			m.copy(s, i)
		}
	}
	if r := &s.Gateways[g].Request; r.Stage == landed {
		r.Stage = answered
		m.store(s, g)
		m.act(s, g)
	}
}

func (m *search) rejoin(s *state, g uint8) {
	if !m.mustJoin(s, g) {
		return
	}
	if m.Offers {
		m.now(s, g, offer, 0)
	}
	m.now(s, g, join, 0)
}

func (m *search) reclaim(s *state) {
	w, d := &s.Gateways[s.At], &s.Servers[s.Current].Data
	if w.Epoch == 0 || m.Reclaim && !ours(d, s.At, w) {
		m.now(s, s.At, claim, 0)
	}
}

// finish completes a command: the owner sends it, the vehicle answers, expired commands expire.
func (m *search) finish(s *state, c uint8) {
	if s.Gateways[s.At].Epoch != 0 {
		m.now(s, s.At, send, c)
	}
	s.Gateways[s.At].Results |= s.Results
	s.Results = 0
	for g := range uint8(m.Gateways) {
		if s.Gateways[g].Results&bit(c) != 0 {
			m.now(s, g, report, c)
		}
	}
	if s.Expired&bit(c) != 0 || s.Servers[s.Current].Data.Commands[c].Due {
		m.now(s, s.At, expire, c)
	}
	m.now(s, s.At, look, c)
}

func (m *search) checkRest(s *state) string {
	d := &s.Servers[s.Current].Data
	switch {
	case d.Open != s.Servers[s.Current].Called && s.DiskLost == bit(uint8(m.Gateways))-1 && s.RedisLost:
		return "" // no gateway has state: the cell starts again, which is not modelled
	case d.Open != s.Servers[s.Current].Called:
		return "nothing is decided, though everybody is there"
	case d.Node != s.At+1 || d.Since != s.Conn:
		return "the owner at rest is not the gateway that has the connection"
	case s.Gateways[s.At].Epoch < s.Earlier && !s.Restored:
		return "the owner's epoch is earlier than that of a connection before"
	}
	for c := range uint8(m.Commands) {
		if b := m.checkCommand(s, c); b != "" {
			return b
		}
	}
	return ""
}

func (m *search) checkCommand(s *state, c uint8) string {
	r := s.Servers[s.Current].Data.Commands[c]
	gone := s.RedisLost && s.Accepted[c]&^s.DiskLost == 0
	switch {
	case s.Reused&bit(c) != 0:
	case s.Accepted[c] != 0 && r.State == none && !gone && s.Forgotten&bit(c) == 0:
		return "an accepted command is forgotten"
	case r.State == queued && r.Gen < s.Servers[s.Current].Data.Doubt:
		return "" // it expires as unclear
	case r.State == sent && s.Executed&bit(c) != 0 && s.DiskLost != 0:
		return "" // the result may have been in the lost journal
	case r.State == queued || r.State == sent:
		return "a command is stuck"
	case r.State.final() && s.Published&bit(c) == 0 && s.DiskLost == 0 && s.Forgotten&bit(c) == 0:
		return "an end is not published"
	}
	return ""
}
