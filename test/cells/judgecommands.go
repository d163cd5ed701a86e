package cells

import (
	"slices"
	"time"
)

// slack is the longest time from a gateway's clock check to the vehicle's without a fault.
const slack = 3 * time.Second

// final reports whether a state is final.
func final(state string) bool {
	return slices.Contains([]string{"succeeded", "failed", "rejected", "expired", "cancelled", "late"}, state)
}

// once checks that each intent is executed at most once, across ids and vehicles.
func (c *court) once() {
	first := map[string]lineOf{}
	for _, v := range c.Vehicles {
		for _, l := range v.Lines {
			if l.What != Executed {
				continue
			}
			if before, again := first[l.Meaning]; again {
				c.on(c.matter(l.ID), "%s was executed before, as %s by %s at %s", l.Meaning, before.ID, before.vin, clock(before.At))
				continue
			}
			first[l.Meaning] = lineOf{v.VIN, l}
		}
	}
}

// asAsked checks that a vehicle executes only commands that a sender requested for it.
func (c *court) asAsked() {
	asked := map[string]string{} // meaning → VIN
	for _, cmd := range c.Commands {
		asked[cmd.Meaning] = cmd.VIN
	}
	for _, m := range c.cases {
		for _, l := range m.lines {
			if l.What == Executed && asked[l.Meaning] != l.vin {
				c.on(m, "%s executed what was asked of %q", l.vin, asked[l.Meaning])
			}
		}
	}
}

// notLate checks that nothing is executed after its expiry, and that nothing is sent after it unless a fault delayed
// it. Without a known expiry, the time to live counts from the last answer to a request for the command.
func (c *court) notLate() {
	for _, m := range c.cases {
		end := m.expires()
		if end.IsZero() {
			if end = m.latestExpiry(); end.IsZero() {
				continue
			}
		}
		for _, l := range m.lines {
			switch {
			case l.What == Executed && l.At.UnixMilli() > end.UnixMilli():
				c.on(m, "executed %v after its time", l.At.Sub(end))
			case (l.What == TooOld || l.What == Received) && l.At.After(end.Add(slack)) && !c.faultIn(end, l.At):
				c.on(m, "sent %v after its time", l.At.Sub(end))
			}
		}
	}
}

// latestExpiry returns the latest expiry of a command that its senders can assume.
func (m *matter) latestExpiry() (end time.Time) {
	for _, cmd := range m.commands {
		for _, a := range cmd.Answers {
			if at := a.At.Add(cmd.TTL); a.Call == "send" && at.After(end) {
				end = at
			}
		}
	}
	return end
}

// notSent checks that commands reported as cancelled, or as expired without being sent, reached no vehicle.
func (c *court) notSent() {
	for _, m := range c.cases {
		l := m.reached()
		if l == nil {
			continue
		}
		for _, t := range m.statements() {
			if t.state == "cancelled" || t.state == "expired" && t.cause == "not_sent" {
				c.on(m, "%s %s (%s), but %s had it at %s", t.state, t.cause, t.by, l.vin, clock(l.At))
				break
			}
		}
	}
}

// refused checks that commands that every answer refused reached no vehicle.
func (c *court) refused() {
	for _, m := range c.cases {
		l := m.reached()
		if l == nil || len(m.commands) == 0 {
			continue
		}
		refused := 0
		for _, cmd := range m.commands {
			sends := slices.DeleteFunc(slices.Clone(cmd.Answers), func(a Answer) bool { return a.Call != "send" })
			if len(sends) > 0 && !slices.ContainsFunc(sends, func(a Answer) bool { return a.Said != SaidRefused && a.Said != SaidConflict }) {
				refused++
			}
		}
		if refused == len(m.commands) {
			c.on(m, "refused, but %s had it at %s", l.vin, clock(l.At))
		}
	}
}

// results checks that the final state matches the vehicle's result, and that every acknowledged result is the final
// state, unless the disk of the gateway that acknowledged it was lost.
func (c *court) results() {
	for _, m := range c.cases {
		executed, reported := m.saw(Executed), m.saw(Reported)
		for _, t := range m.statements() {
			if t.state != "succeeded" && t.state != "failed" {
				continue
			}
			if executed == nil {
				c.on(m, "%s (%s), but no vehicle executed it", t.state, t.by)
				break
			}
			if executed.Result != t.state {
				c.on(m, "%s (%s), but the vehicle's result was %s", t.state, t.by, executed.Result)
				break
			}
		}
		if reported == nil || c.wiped(reported.Gateway, reported.At) {
			continue
		}
		for _, e := range m.ends {
			if !e.Missing && e.State != reported.Result && (e.State != "late" || e.Outcome != reported.Result) {
				c.on(m, "%s %s at %s, but the vehicle's result %s was acknowledged at %s", e.State, e.Cause, e.Gateway, reported.Result, clock(reported.At))
				break
			}
		}
	}
}

// oneEnd checks that all sources report the same final state; only expired may change to late.
func (c *court) oneEnd() {
	for _, m := range c.cases {
		ends := map[string]string{}
		for _, t := range m.statements() {
			if final(t.state) {
				ends[t.state] = t.by
			}
		}
		if _, late := ends["late"]; late {
			delete(ends, "expired")
		}
		if len(ends) > 1 {
			c.on(m, "ended as %v", ends)
		}
	}
}

// oneCommand checks that only one of two commands with the same id is accepted.
func (c *court) oneCommand() {
	for _, m := range c.cases {
		accepted := map[string]bool{}
		for _, cmd := range m.commands {
			if slices.ContainsFunc(cmd.Answers, func(a Answer) bool { return a.Said == SaidAccepted }) {
				accepted[cmd.Meaning] = true
			}
		}
		for _, l := range m.lines {
			if l.What == Executed {
				accepted[l.Meaning] = true
			}
		}
		if len(accepted) > 1 {
			c.on(m, "accepted or executed as %d commands", len(accepted))
		}
	}
}

// stuck checks that every known command has ended.
func (c *court) stuck() {
	for _, m := range c.cases {
		for _, e := range m.ends {
			if !e.Missing && !final(e.State) {
				c.on(m, "still %s at %s", e.State, e.Gateway)
				break
			}
		}
	}
}

// refusedFromKafka reports whether the command came from Kafka, where there is no answer, and an event told its sender
// that it was refused.
func (m *matter) refusedFromKafka() bool {
	return len(m.commands) == 1 && m.commands[0].Via == "kafka" && slices.ContainsFunc(m.events, func(e Event) bool {
		return e.State == "rejected" || e.State == "expired" && e.Cause == "not_sent"
	})
}

// lost checks that every gateway knows each accepted or executed command at the end, and that its final state was
// published. Events that wait for Kafka are on disk, so a lost disk excuses a missing event.
func (c *court) lost() {
	for _, m := range c.cases {
		cmd, a := m.accepted()
		executed := m.saw(Executed)
		if a == nil && executed == nil {
			continue
		}
		began := time.Time{}
		if cmd != nil {
			began = cmd.Began
		}
		missing := slices.IndexFunc(m.ends, func(e End) bool { return e.Missing })
		switch {
		case executed == nil && m.refusedFromKafka():
		case len(m.ends) == 0:
			c.on(m, "nobody was asked for its end")
		case missing >= 0:
			c.on(m, "accepted or executed, and unknown at %s", m.ends[missing].Gateway)
		case final(m.ends[0].State) && !c.wiped("", began) && !slices.ContainsFunc(m.events, func(e Event) bool { return final(e.State) }):
			c.on(m, "its end was not told on vehicle.command-results")
		}
	}
}
