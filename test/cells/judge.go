package cells

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Violation is a broken guarantee.
type Violation struct {
	Rule, What string
}

// rules returns the guarantees. The judge's test violates each of them.
func rules() map[string]func(*court) {
	return map[string]func(*court){
		"executed once":           (*court).once,
		"executed as asked":       (*court).asAsked,
		"not after expiry":        (*court).notLate,
		"cancelled is not sent":   (*court).notSent,
		"refused is not sent":     (*court).refused,
		"results are as told":     (*court).results,
		"one end":                 (*court).oneEnd,
		"nothing stuck":           (*court).stuck,
		"nothing accepted lost":   (*court).lost,
		"one command for an id":   (*court).oneCommand,
		"connected once":          (*court).connectedOnce,
		"telemetry kept":          (*court).telemetry,
		"order by epoch":          (*court).order,
		"presence is true":        (*court).presence,
		"every session has ended": (*court).sessions,
	}
}

// Judge checks the evidence against every guarantee.
func Judge(e *Evidence) []Violation {
	c := newCourt(e)
	all := rules()
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range all {
			if !yield(name) {
				return
			}
		}
	}) {
		c.rule = name
		all[name](c)
	}
	return c.found
}

// court is the evidence, indexed by command id.
type court struct {
	*Evidence
	rule  string
	found []Violation
	cases map[string]*matter // by id
}

// matter is all evidence about one id.
type matter struct {
	id       string
	commands []*Command
	lines    []lineOf // of every vehicle that saw it
	events   []Event
	ends     []End
}

type lineOf struct {
	vin string
	Line
}

func newCourt(e *Evidence) *court {
	c := &court{Evidence: e, cases: map[string]*matter{}}
	for _, cmd := range e.Commands {
		if cmd.ID != "" {
			m := c.matter(cmd.ID)
			m.commands = append(m.commands, cmd)
		}
	}
	for _, v := range e.Vehicles {
		for _, l := range v.Lines {
			if l.ID != "" {
				m := c.matter(l.ID)
				m.lines = append(m.lines, lineOf{v.VIN, l})
			}
		}
	}
	for _, ev := range e.Events {
		m := c.matter(ev.ID)
		m.events = append(m.events, ev)
	}
	for id, ends := range e.Ends {
		c.matter(id).ends = ends
	}
	return c
}

func (c *court) matter(id string) *matter {
	m := c.cases[id]
	if m == nil {
		m = &matter{id: id}
		c.cases[id] = m
	}
	return m
}

func (c *court) violated(format string, args ...any) {
	c.found = append(c.found, Violation{c.rule, fmt.Sprintf(format, args...)})
}

// on reports a violation with the full history of an id.
func (c *court) on(m *matter, format string, args ...any) {
	c.violated("%s: %s\n%s", m.id, fmt.Sprintf(format, args...), m.story())
}

// wiped reports whether a gateway's disk was lost after a time; "" means any gateway.
func (c *court) wiped(gateway string, after time.Time) bool {
	return slices.ContainsFunc(c.Faults, func(f Fault) bool {
		return f.Kind == FaultWiped && (gateway == "" || f.On == gateway) && f.To.After(after)
	})
}

func (c *court) faultIn(from, to time.Time) bool {
	return slices.ContainsFunc(c.Faults, func(f Fault) bool { return f.overlaps(from, to) })
}

// saw returns the first line of any of the given kinds.
func (m *matter) saw(what ...What) *lineOf {
	for i := range m.lines {
		if slices.Contains(what, m.lines[i].What) {
			return &m.lines[i]
		}
	}
	return nil
}

// reached returns the first line that shows that the command was sent to a vehicle, or nil.
func (m *matter) reached() *lineOf { return m.saw(Received, Repeated, TooOld, Executed) }

// accepted returns the first answer that accepted the command, and its request.
func (m *matter) accepted() (*Command, *Answer) {
	for _, cmd := range m.commands {
		for i := range cmd.Answers {
			if cmd.Answers[i].Said == SaidAccepted {
				return cmd, &cmd.Answers[i]
			}
		}
	}
	return nil, nil
}

// expires returns the expiry in the answers; zero if there is none.
func (m *matter) expires() time.Time {
	for _, e := range m.ends {
		if !e.Expires.IsZero() {
			return e.Expires
		}
	}
	for _, cmd := range m.commands {
		for _, a := range cmd.Answers {
			if !a.Expires.IsZero() {
				return a.Expires
			}
		}
	}
	return time.Time{}
}

// statements returns all reported states: state, cause or outcome, and the source.
func (m *matter) statements() []statement {
	var all []statement
	for _, cmd := range m.commands {
		for _, a := range cmd.Answers {
			if a.State != "" {
				all = append(all, statement{a.State, a.Cause, fmt.Sprintf("%s %s at %s", a.Call, a.Gateway, clock(a.At))})
			}
		}
	}
	for _, e := range m.events {
		all = append(all, statement{e.State, e.Cause, "event"})
	}
	for _, e := range m.ends {
		if !e.Missing {
			all = append(all, statement{e.State, e.Cause, "the end at " + e.Gateway})
		}
	}
	return all
}

type statement struct{ state, cause, by string }

// story returns all evidence about an id, for debugging.
func (m *matter) story() string {
	type entry struct {
		at   time.Time
		text string
	}
	var all []entry
	for _, cmd := range m.commands {
		all = append(all, entry{cmd.Began, fmt.Sprintf("asked by %s for %s, %v, meaning %s", cmd.Via, cmd.VIN, cmd.TTL, cmd.Meaning)})
		for _, a := range cmd.Answers {
			all = append(all, entry{a.At, fmt.Sprintf("%s at %s: %s %s %s %s", a.Call, a.Gateway, a.Said, a.State, a.Cause, a.Detail)})
		}
	}
	for _, l := range m.lines {
		all = append(all, entry{l.At, fmt.Sprintf("%s %s over its connection %d at %s %s", l.vin, l.What, l.Connection, l.Gateway, l.Result)})
	}
	slices.SortStableFunc(all, func(a, b entry) int { return a.at.Compare(b.at) })
	var b strings.Builder
	for _, e := range all {
		fmt.Fprintf(&b, "    %s %s\n", clock(e.at), e.text)
	}
	fmt.Fprintf(&b, "    expires %s; events", clock(m.expires()))
	for _, e := range m.events {
		fmt.Fprintf(&b, " %s %s,", e.State, e.Cause)
	}
	fmt.Fprintf(&b, " at the end %+v", m.ends)
	return b.String()
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }
