package model

// Bounds of the model. Gateways are 0 to 2; Redis has gateway numbers plus 1, so that 0 is none.
const (
	maxGateways = 3
	maxCommands = 2
	maxServers  = 3
)

// status is the state of a command in Redis, in a gateway's memory, or in an answer.
type status uint8

const (
	none status = iota
	queued
	sent
	cancelled
	unsent     // expired, never sent
	unclear    // expired, unknown whether sent
	unanswered // expired after it was sent
	late       // expired, then the vehicle answered
	done
)

// final reports whether only the vehicle's result can change it. States are in the order in which merging prefers them.
func (s status) final() bool { return s >= cancelled }

// decided reports whether a gateway has decided the end, not the vehicle.
func (s status) decided() bool { return s >= cancelled && s <= unanswered }

// record is a command in Redis or in a gateway's memory: its state, the generation in which it was accepted, and which of
// two contents it has. Told: its end is known to be published. Due, in Redis: a gateway has to publish its end.
type record struct {
	State     status
	Gen       uint8
	Content   uint8
	Told, Due bool
}

// answer returns the record as an answer has it.
func (r record) answer() record {
	r.Due = false
	return r
}

// data is a copy of Redis: the mark of its generation, the vehicle's claim, its commands.
type data struct {
	// The mark. Open is the server at which commands are decided. Members offered what they remember to server Offered.
	// Gen counts generations. A command accepted before generation Doubt may have been sent by a member that lost its
	// memory. Floor is Doubt at the next opening. Fresh: a member without memory has joined.
	Open    uint8
	Gen     uint8
	Floor   uint8
	Doubt   uint8
	Members uint8
	Fresh   bool
	Offered [maxGateways]uint8
	// The claim: the vehicle's gateway, connection and epoch.
	Node, Since, Epoch uint8
	// Holder is the command plus 1 that the common id of a Case with SameID is reserved for.
	Holder uint8

	Commands [maxCommands]record
}

// script names a script.
type script uint8

const (
	idle script = iota
	claim
	accept
	send
	report
	cancel
	expire
	look
	offer
	join
	forget
	reserve
	told
)

var scriptNames = [...]string{"nothing", "claim", "accept", "send", "report", "cancel", "expire", "look", "offer", "join", "forget", "reserve", "told"}

func (s script) String() string { return scriptNames[s] }

// call is a script with its arguments.
type call struct {
	Script  script
	Gateway uint8
	Command uint8
	// Since and Epoch are of the caller's connection. Expired: the command has expired.
	Since, Epoch uint8
	Expired      bool
	// Time of a claim is when its connection began.
	Time uint8
	// Content is the content of the command to accept.
	Content uint8
	// Reserved is the server that has reserved the id of the command to accept; 0: that is confirmed.
	Reserved uint8
	// Of an offer, what the caller remembers; of join, its memory, and the server that received its offers.
	Record     record
	Remembers  bool
	Gen, Floor uint8
	Members    uint8
	Server     uint8
}

// verdict is a script's decision.
type verdict uint8

const (
	ok verdict = iota
	closed
	missing
	older    // a younger connection has the claim
	notOwner // the caller is not the owner, or not with this epoch
	doubtful
	early   // not expired yet
	tooLate // expired
	already // the call does not change this state
	moved   // another server received the offers
	waiting // for other members
	empty   // no gateway is registered, and the caller has no state
	conflict
)

var verdictNames = [...]string{"ok", "closed", "missing", "older", "not-owner", "doubt", "early", "expired", "already", "moved", "waiting", "empty", "conflict"}

func (v verdict) String() string { return verdictNames[v] }

// answer is a script's answer.
type answer struct {
	Verdict    verdict
	Record     record
	Epoch      uint8
	Gen, Floor uint8
	// Reported is the gateway that is notified of a claim.
	Notified uint8
}

// apply runs a script on a server's data. server is its present name, which changes with every promotion and restart.
func (r Rules) apply(d *data, server uint8, c call) answer {
	switch c.Script {
	case claim:
		return r.claim(d, c)
	case offer:
		return r.offer(d, c)
	case join:
		return r.join(d, server, c)
	case forget:
		return r.forget(d, server, c)
	case told:
		if cmd := &d.Commands[c.Command]; cmd.State.final() && cmd.State != done {
			cmd.Told, cmd.Due = true, false
		}
		return answer{}
	}
	if d.Open != server && r.Closed && (c.Script != accept && c.Script != reserve || r.AcceptOpen) {
		return answer{Verdict: closed}
	}
	cmd := &d.Commands[c.Command]
	switch {
	case c.Script == reserve:
		return reserved(d, c)
	case c.Script == accept && c.Reserved != 0 && c.Reserved != server && r.ReservedHere:
		return answer{Verdict: moved}
	case c.Script == accept:
		return r.accept(d, cmd, c)
	}
	if cmd.State == none {
		return answer{Verdict: missing}
	}
	v := r.change(d, cmd, c)
	return answer{Verdict: v, Record: cmd.answer()}
}

// change applies a call to an existing command.
func (r Rules) change(d *data, cmd *record, c call) verdict {
	lost := cmd.Gen < d.Doubt // a member without memory may know more
	switch c.Script {
	case send:
		return r.send(d, cmd, c, lost)
	case report:
		switch {
		case cmd.State == unsent, cmd.State == unclear, cmd.State == unanswered, !cmd.State.final() && lost && c.Expired:
			cmd.State, cmd.Told = late, false
		case !cmd.State.final():
			cmd.State = done
		default:
			return already
		}
	case cancel:
		switch {
		case lost && cmd.State == queued:
			return doubtful
		case cmd.State == queued, cmd.State == sent && !r.CancelUnsent:
			cmd.State, cmd.Due = cancelled, true
		default:
			return already
		}
	case expire:
		return end(cmd, c, lost)
	}
	return ok
}

func (r Rules) send(d *data, cmd *record, c call, lost bool) verdict {
	switch {
	case cmd.State.final():
		return already
	case lost && cmd.State == queued:
		return doubtful
	case r.OwnerSends && (d.Node != c.Gateway+1 || d.Epoch != c.Epoch):
		return notOwner
	case c.Expired && r.ExpiredNotSent:
		return tooLate
	}
	cmd.State = sent
	return ok
}

// end expires a command.
func end(cmd *record, c call, lost bool) verdict {
	switch {
	case cmd.State.final() && cmd.Due:
		return ok
	case cmd.State.final():
		return already
	case !c.Expired:
		return early
	case lost:
		cmd.State = unclear
	case cmd.State == queued:
		cmd.State = unsent
	default:
		cmd.State = unanswered
	}
	cmd.Due = true
	return ok
}

// reserved reserves the common id of two commands for one of them.
func reserved(d *data, c call) answer {
	if d.Holder != 0 && d.Holder != c.Command+1 {
		return answer{Verdict: conflict}
	}
	d.Holder = c.Command + 1
	return answer{}
}

func (r Rules) accept(d *data, cmd *record, c call) answer {
	switch {
	case cmd.State != none && cmd.Content != c.Content:
		return answer{Verdict: conflict}
	case cmd.State != none:
		return answer{Verdict: already, Record: cmd.answer()}
	case c.Expired && r.ExpiredNotAccepted:
		return answer{Verdict: tooLate}
	}
	*cmd = record{State: queued, Gen: d.Gen, Content: c.Content}
	return answer{Record: *cmd}
}

// claim assigns the vehicle to the younger connection, with an epoch later than all that the caller or Redis knows.
func (r Rules) claim(d *data, c call) answer {
	mine := d.Node == c.Gateway+1 && d.Since == c.Since
	loses := d.Node != 0 && !mine && c.Since < d.Since
	if !r.YoungerConnection {
		loses = d.Node != 0 && !mine && c.Epoch != 0 && c.Epoch <= d.Epoch
	}
	switch {
	case loses:
		return answer{Verdict: older, Epoch: d.Epoch}
	case mine && (c.Epoch <= d.Epoch || !r.EpochKnown):
		return answer{Epoch: d.Epoch}
	}
	epoch := max(c.Epoch, d.Epoch) + 1
	if r.Clock {
		epoch = max(epoch, c.Time)
	}
	a := answer{Epoch: epoch}
	if d.Node != c.Gateway+1 {
		a.Notified = d.Node
	}
	d.Node, d.Since, d.Epoch = c.Gateway+1, c.Since, epoch
	return a
}

// offer merges a command that the caller remembers.
func (r Rules) offer(d *data, c call) answer {
	cmd := &d.Commands[c.Command]
	ended := cmd.State.final()
	switch {
	case cmd.State == none || !r.MergeLater:
		*cmd = c.Record
	default:
		switch {
		case cmd.State < c.Record.State:
			cmd.State, cmd.Told = c.Record.State, c.Record.Told
		case cmd.State == c.Record.State:
			cmd.Told = cmd.Told || c.Record.Told
		}
		cmd.Gen = min(cmd.Gen, c.Record.Gen)
	}
	switch {
	case !r.OfferEnds:
		cmd.Due = cmd.Due && !c.Record.State.final()
	case cmd.Told:
		cmd.Due = false
	default:
		cmd.Due = ended && cmd.Due || cmd.State.decided()
	}
	return answer{Record: cmd.answer()}
}

// join registers a member, and opens the mark for this server once every member has offered.
func (r Rules) join(d *data, server uint8, c call) answer {
	if d.Members == 0 && !c.Remembers && r.FreshWaits {
		return answer{Verdict: empty}
	}
	d.Gen, d.Floor = max(d.Gen, c.Gen), max(d.Floor, c.Floor)
	open, offered := d.Open == server, d.Offered[c.Gateway] == server
	elsewhere := c.Remembers && c.Server != server && r.OffersLanded
	if open && elsewhere && !offered {
		return answer{Verdict: moved, Gen: d.Gen, Floor: d.Floor}
	}
	d.Members |= c.Members | bit(c.Gateway) // before its offers are in, too: no server opens without them
	if open {
		d.Offered[c.Gateway] = server
	}
	switch {
	case !open && elsewhere:
		return answer{Verdict: moved, Gen: d.Gen, Floor: d.Floor}
	case open && !c.Remembers:
		d.Gen++
		d.Floor = d.Gen
		return answer{Gen: d.Gen, Floor: d.Floor}
	case open:
		return answer{Gen: d.Gen, Floor: d.Floor}
	}
	d.Fresh = d.Fresh || !c.Remembers
	d.Offered[c.Gateway] = server
	v := r.openFor(d, server)
	return answer{Verdict: v, Gen: d.Gen, Floor: d.Floor}
}

// openFor opens the mark if no offers are missing.
func (r Rules) openFor(d *data, server uint8) verdict {
	if r.AllOffer {
		for g := range uint8(maxGateways) {
			if d.Members&bit(g) != 0 && d.Offered[g] != server {
				return waiting
			}
		}
	}
	d.Gen++
	if d.Fresh {
		d.Floor = d.Gen
	}
	if r.Doubt {
		d.Doubt = max(d.Doubt, d.Floor)
	}
	d.Fresh, d.Open = false, server
	return ok
}

// forget removes a member that does not return, for an operator, through another member. Its memory is lost.
func (r Rules) forget(d *data, server uint8, c call) answer {
	if !r.FreshWaits || c.Remembers {
		d.Members |= c.Members
	}
	d.Members &^= bit(c.Gateway)
	d.Offered[c.Gateway] = 0
	v := ok
	if d.Open == server {
		d.Gen++
		d.Floor = d.Gen
	} else {
		d.Fresh = true
		v = r.openFor(d, server)
	}
	return answer{Verdict: v, Gen: d.Gen, Floor: d.Floor}
}
