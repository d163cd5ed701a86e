package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/rules/rulestest"
	"cellgate/rules/state"
)

// sighting is a message as a model of an operator sees it: all of a vehicle, in their order.
type sighting struct {
	at   int64 // ms after epoch
	v    int   // of the payload; 0: the field is missing
	k    int   // another field
	seen int64 // event time, ms after epoch
}

func (s sighting) payload() string {
	if s.v == 0 {
		return fmt.Sprintf(`{"k":%d,"ts":%d}`, s.k, rulestest.Epoch+s.seen)
	}
	return fmt.Sprintf(`{"v":%d,"k":%d,"ts":%d}`, s.v, s.k, rulestest.Epoch+s.seen)
}

// modelCase is an operator and a model of it that is too simple to be wrong: what it sends about the messages of a vehicle
// until a time. An output is a time in ms after epoch and the values as JSON.
type modelCase struct {
	name, rule string
	model      func(of []sighting, j *journalTimes) []string
}

func modelCases() []modelCase {
	return []modelCase{
		{"silent", ruleWith("silent: 9s", ""), silentModel},
	}
}

// journalTimes are when a script ends, and the pauses in it.
type journalTimes struct {
	until  int64
	pauses [][2]int64
}

func stamped(at int64) string { return fmt.Sprintf(`{"ms":%d}`, rulestest.Epoch+at) }

func silentModel(of []sighting, j *journalTimes) (out []string) {
	for i, s := range of {
		next := j.until
		if i+1 < len(of) {
			next = of[i+1].at
		}
		end := s.at + 9000
		for _, p := range j.pauses {
			if p[1] > s.at && end > p[0] {
				end = p[1] + 9000
			}
		}
		if end <= next {
			out = append(out, fmt.Sprintf(`%d {"last":%s}`, end, stamped(s.at)))
		}
	}
	return out
}

// play runs a script: three bytes each are a message, a tick or a restart, and the time that passes before it. It returns the
// messages and what was sent, by vehicle, and the time at the end.
func play(t *testing.T, rule string, script []byte) (seen map[string][]sighting, sent map[string][]string, j *journalTimes) {
	t.Helper()
	set := rulestest.Compile(t, rule)
	st := state.NewState(state.StateOptions{})
	w := NewEngine(set, st).NewWorker()
	seen, sent, j = map[string][]sighting{}, map[string][]string{}, &journalTimes{}
	var now, last int64
	stored := map[string][]byte{}
	note := func(rec *message.Record) {
		if rec.TickBegins() {
			st.Begin(rec.ReceivedAt)
			j.pauses = append(j.pauses, [2]int64{last, now})
		}
		st.Advance(rec.ReceivedAt)
		last = now
		for _, d := range w.Eval(rec, nil) {
			if d.Err != "" {
				t.Fatal(d.Err)
			}
			d, _, err := DecodeDecision(d.Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			of := d.Record(rec)
			sent[of.VIN()] = append(sent[of.VIN()], fmt.Sprintf("%d %s", of.ReceivedAt-rulestest.Epoch, d.Values))
		}
	}
	for ; len(script) >= 3; script = script[3:] {
		now += int64(script[1]) * 50
		switch kind := script[0] % 8; kind {
		case 0:
			note(&message.Record{Kind: message.KindTick, ReceivedAt: rulestest.Epoch + now})
		case 1:
			for vin, data := range taken(st) {
				stored[vin] = data
			}
			listening := st.Listening()
			st = state.NewState(state.StateOptions{})
			st.SetListening(listening)
			for vin, data := range stored {
				if err := st.Load(vin, data); err != nil {
					t.Fatal(err)
				}
			}
			w = NewEngine(set, st).NewWorker()
			if script[2]%2 == 0 {
				note(&message.Record{Kind: message.KindTick, ReceivedAt: rulestest.Epoch + now, Payload: message.Tick(true).Payload})
			}
		default:
			vin := fmt.Sprintf("VIN%d", script[0]>>3%2)
			s := sighting{at: now, v: int(script[2] % 8), k: int(script[2] >> 3 % 4), seen: now - int64(script[2]>>5)*500}
			seen[vin] = append(seen[vin], s)
			rec := rulestest.Telemetry(1, rulestest.Epoch+now, s.payload())
			rec.Topic = "v1/" + vin + "/up/telemetry"
			note(&rec)
		}
	}
	now += 60_000
	for range 100 { // more than one tick may do
		note(&message.Record{Kind: message.KindTick, ReceivedAt: rulestest.Epoch + now})
	}
	j.until = now
	return seen, sent, j
}

func checkModel(t *testing.T, c modelCase, script []byte) {
	t.Helper()
	seen, sent, j := play(t, c.rule, script)
	for vin, of := range seen {
		if want := c.model(of, j); !slices.Equal(sent[vin], want) {
			t.Fatalf("%s of %s: sent\n%s\nwant\n%s\nof %v", c.name, vin, strings.Join(sent[vin], "\n"), strings.Join(want, "\n"), of)
		}
	}
}

// TestOperatorsAsModelled holds every operator against its model, with ticks and restarts anywhere.
func TestOperatorsAsModelled(t *testing.T) {
	t.Parallel()
	for _, c := range modelCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(7, 11)) //nolint:gosec // a test's choices
			for range 60 {
				script := make([]byte, 3*rnd.IntN(120))
				for i := range script {
					script[i] = byte(rnd.Uint32())
					if i%3 == 1 && rnd.IntN(4) > 0 {
						script[i] %= 30
					}
				}
				checkModel(t, c, script)
			}
		})
	}
}

// FuzzOperators does it with any script.
func FuzzOperators(f *testing.F) {
	f.Add([]byte{2, 10, 9, 2, 200, 9, 0, 200, 0, 1, 0, 0, 2, 1, 17})
	cases := modelCases()
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 600 {
			t.Skip("longer ones only take longer")
		}
		for _, c := range cases {
			checkModel(t, c, script)
		}
	})
}
