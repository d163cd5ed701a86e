package cells

import (
	"maps"
	"slices"
	"testing"
	"time"

	"cellgate/test/scenario"
)

// begin is the start of the histories in these tests.
var begin = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }

// blameless returns a history with all kinds of events and no violation.
func blameless() *Evidence {
	expires := at(60)
	accepted := func(s float64) Answer {
		return Answer{At: at(s), Gateway: "gw-1", Call: "send", Said: SaidAccepted, State: "queued", Expires: expires}
	}
	ends := func(state, cause, outcome string) []End {
		return []End{{"gw-1", false, state, cause, outcome, expires}, {"gw-2", false, state, cause, outcome, expires}}
	}
	command := func(id string, answers ...Answer) *Command {
		return &Command{ID: id, VIN: "V", Via: "http", Meaning: "m-" + id, TTL: time.Minute, Began: at(1), Answers: answers}
	}
	line := func(s float64, what What, id, result string) Line {
		return Line{At: at(s), What: what, Connection: 1, Gateway: "gw-1", ID: id, Meaning: "m-" + id, Result: result, Expires: expires}
	}
	return &Evidence{
		Overlap: time.Second,
		Commands: []*Command{
			command("done", accepted(2)),
			command("cancelled", accepted(2), Answer{At: at(3), Gateway: "gw-2", Call: "cancel", Said: SaidState, State: "cancelled"}),
			command("unsent", accepted(2)), command("late", accepted(2)),
			command("refused", Answer{At: at(2), Gateway: "gw-1", Call: "send", Said: SaidRefused}),
			command("unknown", Answer{At: at(2), Gateway: "gw-1", Call: "send", Said: SaidUnknown}),
			{ID: "done", VIN: "V", Via: "http", Meaning: "rival", Began: at(1), Answers: []Answer{{At: at(5), Gateway: "gw-2", Call: "send", Said: SaidConflict}}},
		},
		Vehicles: []*Vehicle{{VIN: "V", Lines: []Line{
			{At: at(0), What: Entered, Connection: 1, Gateway: "gw-1"},
			line(3, Received, "done", ""), line(3, Executed, "done", "succeeded"), line(4, Reported, "done", "succeeded"),
			line(5, Received, "late", ""), line(5, Executed, "late", "failed"), line(70, Reported, "late", "failed"),
			{At: at(71), What: Entered, Connection: 2, Gateway: "gw-2"},
			{At: at(71.2), What: Left, Connection: 1, Gateway: "gw-1"},
		}, Acked: []Ack{{at(1), 0, 1, "gw-1", nil}, {at(2), 0, 2, "gw-1", nil}, {at(72), 0, 3, "gw-2", nil}}}},
		Ends: map[string][]End{
			"done": ends("succeeded", "", ""), "cancelled": ends("cancelled", "", ""), "unsent": ends("expired", "not_sent", ""),
			"late": ends("late", "", "failed"), "unknown": {{Gateway: "gw-1", Missing: true}, {Gateway: "gw-2", Missing: true}},
		},
		Events: []Event{
			{"done", "V", "queued", ""},
			{"done", "V", "succeeded", ""},
			{"cancelled", "V", "cancelled", ""},
			{"unsent", "V", "expired", "not_sent"},
			{"late", "V", "expired", "no_result"},
			{"late", "V", "late", ""},
		},
		Telemetry: []Telemetered{
			{"V", 1, 10, "gw-1", 1, 1}, {"V", 2, 10, "gw-1", 1, 2}, {"V", 2, 20, "gw-2", 1, 1}, {"V", 3, 20, "gw-2", 1, 2}, {"V", 2, 10, "gw-1", 1, 2},
		},
		Presence: []scenario.PresenceEvent{
			{VIN: "V", Node: "gw-1", Epoch: 10, Seq: 1, Event: "connected"},
			{VIN: "V", Node: "gw-2", Epoch: 20, Seq: 2, Event: "connected"},
			{VIN: "V", Node: "gw-1", Epoch: 10, Seq: 3, Event: "disconnected", Reason: "takeover"},
			{VIN: "V", Node: "gw-1", Epoch: 10, Seq: 3, Event: "disconnected", Reason: "takeover"},
			{VIN: "W", Node: "gw-1", Epoch: 11, Seq: 1, Event: "connected"},
			{VIN: "W", Node: "gw-1", Epoch: 11, Seq: 2, Event: "disconnected", Reason: "client"},
		},
		Truth: map[string]string{"V": "gw-2", "W": ""},
	}
}

// later appends lines to the first vehicle's log.
func later(lines ...Line) func(*Evidence) {
	return func(e *Evidence) { e.Vehicles[0].Lines = append(e.Vehicles[0].Lines, lines...) }
}

func answered(command int, a Answer) func(*Evidence) {
	return func(e *Evidence) { e.Commands[command].Answers = append(e.Commands[command].Answers, a) }
}

func ended(id string, change func(*End)) func(*Evidence) {
	return func(e *Evidence) { change(&e.Ends[id][1]) }
}

// planted returns violations by the rule that must find them.
func planted() map[string][]func(*Evidence) {
	had := func(id string) Line { return Line{At: at(6), What: Received, ID: id, Meaning: "m-" + id} }
	did := func(id, meaning string, s float64) Line {
		return Line{At: at(s), What: Executed, ID: id, Meaning: meaning, Result: "succeeded"}
	}
	return map[string][]func(*Evidence){
		"executed once": {
			later(did("done", "m-done", 9)), later(did("another-id", "m-done", 9)),
			func(e *Evidence) {
				e.Vehicles = append(e.Vehicles, &Vehicle{VIN: "W", Lines: []Line{did("done", "m-done", 9)}})
			},
		},
		"executed as asked": {
			later(did("x", "nobody's", 9)),
			func(e *Evidence) {
				e.Vehicles = append(e.Vehicles, &Vehicle{VIN: "W", Lines: []Line{did("unknown", "m-unknown", 9)}})
			},
		},
		"not after expiry": {
			later(did("done", "m-done", 60.1)), later(Line{At: at(64), What: TooOld, ID: "done"}),
			func(e *Evidence) { e.Vehicles[0].Lines[2].At = at(60.001) },
			later(did("unknown", "m-unknown", 62.1)), // one minute after the sender gave up
		},
		"cancelled is not sent": {later(had("cancelled")), later(had("unsent")), answered(0, Answer{Call: "cancel", State: "cancelled", Said: SaidState})},
		"refused is not sent":   {later(had("refused"))},
		"results are as told": {
			func(e *Evidence) { e.Vehicles[0].Lines[2].Result = "failed" },
			ended("done", func(e *End) { e.State = "expired" }),
			ended("unsent", func(e *End) { e.State = "succeeded" }),
			ended("late", func(e *End) { e.Outcome = "succeeded" }),
			ended("late", func(e *End) { e.State = "expired" }),
		},
		"one end": {
			ended("unsent", func(e *End) { e.State = "cancelled" }), answered(3, Answer{Call: "look", Said: SaidState, State: "failed"}),
			func(e *Evidence) { e.Events = append(e.Events, Event{"done", "V", "expired", "no_result"}) },
		},
		"nothing stuck": {ended("unsent", func(e *End) { e.State = "queued" }), ended("done", func(e *End) { e.State = "accepted" })},
		"nothing accepted lost": {
			ended("unsent", func(e *End) { *e = End{Gateway: "gw-2", Missing: true} }),
			func(e *Evidence) { delete(e.Ends, "unsent") },
			later(did("unknown", "m-unknown", 9)),
			func(e *Evidence) { e.Events = e.Events[:3] },
		},
		"one command for an id": {answered(6, Answer{Call: "send", Said: SaidAccepted}), later(did("done", "rival", 9))},
		"connected once": {
			func(e *Evidence) { e.Vehicles[0].Lines[8].At = at(73) },
			func(e *Evidence) { e.Vehicles[0].Lines = e.Vehicles[0].Lines[:8] },
			func(e *Evidence) {
				e.Vehicles[0].Lines[8].At = at(110)
				e.Faults = []Fault{{Kind: FaultStopped, On: "gw-1", From: at(70), To: at(73)}}
			},
			func(e *Evidence) { // the second connection ends as the third begins
				e.Vehicles[0].Lines = slices.Concat(e.Vehicles[0].Lines[:8], connections(71, 71.6, 72.4))
			},
		},
		"telemetry kept": {
			func(e *Evidence) { e.Telemetry = e.Telemetry[:3] },
			func(e *Evidence) {
				e.Telemetry = e.Telemetry[:3]
				e.Faults = []Fault{{Kind: FaultWiped, On: "gw-1", To: at(90)}, {Kind: FaultWiped, On: "gw-2", To: at(71)}}
			},
		},
		"order by epoch": {
			func(e *Evidence) { e.Telemetry[4].Epoch = 0 },
			func(e *Evidence) { e.Telemetry[0].Epoch = 21 }, func(e *Evidence) { e.Telemetry[0].Number = 3 },
			func(e *Evidence) { e.Telemetry[2].Epoch, e.Telemetry[3].Epoch = 10, 10 },
		},
		"presence is true": {
			func(e *Evidence) { e.Truth["W"] = "gw-1" }, func(e *Evidence) { e.Truth["V"] = "gw-1" }, func(e *Evidence) { e.Truth["V"] = "" },
			func(e *Evidence) { e.Truth["X"] = "" }, func(e *Evidence) { e.Presence[3].Reason = "client" },
		},
		"every session has ended": {
			func(e *Evidence) { e.Presence = slices.Delete(e.Presence, 2, 4) },
			func(e *Evidence) { e.Presence[5].Reason = "" },
			func(e *Evidence) { e.Presence[3].Seq = 4 },
			func(e *Evidence) {
				e.Presence = append(e.Presence, scenario.PresenceEvent{VIN: "W", Epoch: 11, Seq: 3, Event: "ready"}, scenario.PresenceEvent{VIN: "W", Epoch: 12, Seq: 4, Event: "disconnected", Reason: "client"})
			},
		},
	}
}

// connections end the blameless one at the last of some times: later ones begin at each of the others, and end at the next.
func connections(times ...float64) (lines []Line) {
	for i, s := range times {
		if i > 0 {
			lines = append(lines, Line{At: at(s), What: Left, Connection: i + 1, Gateway: "gw-2"})
		}
		if i < len(times)-1 {
			lines = append(lines, Line{At: at(s), What: Entered, Connection: i + 2, Gateway: "gw-2"})
		}
	}
	return append(lines, Line{At: at(times[len(times)-1]), What: Left, Connection: 1, Gateway: "gw-1"})
}

// TestJudge checks that the judge finds nothing in a correct history, and finds every planted violation.
func TestJudge(t *testing.T) {
	t.Parallel()
	for _, v := range Judge(blameless()) {
		t.Errorf("found in what is blameless: %s: %s", v.Rule, v.What)
	}
	all := planted()
	for _, rule := range slices.Sorted(maps.Keys(rules())) {
		if len(all[rule]) == 0 {
			t.Errorf("nothing is planted for %q", rule)
		}
		for i, plant := range all[rule] {
			e := blameless()
			plant(e)
			if !slices.ContainsFunc(Judge(e), func(v Violation) bool { return v.Rule == rule }) {
				t.Errorf("%s: violation %d is not found", rule, i)
			}
		}
	}
}

// TestJudgeForgives checks that consequences of faults are not violations: messages and results on a lost disk,
// connections to a stopped gateway, delayed commands.
func TestJudgeForgives(t *testing.T) {
	t.Parallel()
	for name, happen := range map[string]func(*Evidence){
		"telemetry of a lost disk": func(e *Evidence) {
			e.Telemetry = e.Telemetry[:3]
			e.Faults = []Fault{{Kind: FaultWiped, On: "gw-2", From: at(73), To: at(80)}}
		},
		"a result of a lost disk": func(e *Evidence) {
			for i := range e.Ends["done"] {
				e.Ends["done"][i].State, e.Ends["done"][i].Cause = "expired", "no_result"
			}
			e.Events[1].State = "expired"
			e.Faults = []Fault{{Kind: FaultWiped, On: "gw-1", From: at(73), To: at(80)}}
		},
		"events of a lost disk": func(e *Evidence) {
			e.Events = nil
			e.Faults = []Fault{{Kind: FaultWiped, On: "gw-1", From: at(73), To: at(80)}}
		},
		"connected to a stopped gateway": func(e *Evidence) {
			e.Vehicles[0].Lines[8].At = at(130)
			e.Faults = []Fault{{Kind: FaultStopped, On: "gw-1", From: at(70), To: at(120)}}
		},
		"connected once at a time": func(e *Evidence) { // the second connection has ended before the first one, and no other begins
			e.Vehicles[0].Lines[8] = Line{At: at(71.5), What: Left, Connection: 2, Gateway: "gw-2"}
			e.Vehicles[0].Lines = append(e.Vehicles[0].Lines, Line{At: at(90), What: Left, Connection: 1, Gateway: "gw-1"}, Line{At: at(91), What: Entered, Connection: 3, Gateway: "gw-2"})
		},
		"what Kafka had too late": func(e *Evidence) {
			e.Commands[2].Via = "kafka"
			e.Ends["unsent"] = e.Ends["unknown"]
		},
		"a command under way": func(e *Evidence) {
			e.Vehicles[0].Lines = append(e.Vehicles[0].Lines, Line{At: at(64), What: TooOld, ID: "unknown"})
			e.Faults = []Fault{{Kind: FaultOther, From: at(50), To: at(63)}}
		},
	} {
		e := blameless()
		happen(e)
		for _, v := range Judge(e) {
			t.Errorf("%s: %s: %s", name, v.Rule, v.What)
		}
	}
}
