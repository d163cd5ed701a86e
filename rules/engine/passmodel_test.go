package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cellgate/rules/op"
)

// Models of the operators that pass messages unchanged, and of the windows over one value.

func passCases() []modelCase {
	last := func(in []sighting) int { return in[len(in)-1].v }
	least := func(in []sighting) int { return slices.MinFunc(in, byV).v }
	greatest := func(in []sighting) int { return slices.MaxFunc(in, byV).v }
	return []modelCase{
		{"sample", ruleWith("sample: 4s", ""), sampleModel},
		{"dedupe", ruleWith("dedupe: {by: payload.k, within: 6s, max: 2}", ""), dedupeModel},
		{"dedupe of a field that may be missing", ruleWith("dedupe: {by: payload.v, within: 6s, max: 9}", ""), dedupeMissingModel},
		{"rate_limit", ruleWith("rate_limit: {count: 3, per: 9s}", ""), rateModel},
		{"threshold", ruleWith("threshold: {enter: payload.v > 4}", "operator.since"), thresholdModel},
		{"count", ruleWith("count: {at_least: 3, window: 12s}", "[operator.count, operator.first]"), countModel},
		{"geofence", ruleWith("geofence: {lat: payload.v, lon: payload.k, on: both, zones: {low: {polygon: [[0, -1], [4.5, -1], [4.5, 9], [0, 9]]}, "+
			"left: {polygon: [[-1, -1], [9, -1], [9, 1.5], [-1, 1.5]]}}}", "[operator.entered, operator.left]"), fenceModel("both")},
		{"geofence of those who leave", ruleWith("geofence: {lat: payload.v, lon: payload.k, on: exit, zones: {low: {polygon: [[0, -1], [4.5, -1], [4.5, 9], [0, 9]]}, "+
			"left: {polygon: [[-1, -1], [9, -1], [9, 1.5], [-1, 1.5]]}}}", "[operator.entered, operator.left]"), fenceModel("exit")},
		{"min", ruleWith("min: {of: payload.v, window: 10s}", ""), windowModel("min", least)},
		{"max", ruleWith("max: {of: payload.v, window: 10s}", ""), windowModel("max", greatest)},
		{"sum", ruleWith("sum: {of: payload.v, window: 10s}", ""), windowModel("sum", total)},
		{"last", ruleWith("last: {of: payload.v, window: 10s}", ""), windowModel("last", last)},
	}
}

func byV(a, b sighting) int { return a.v - b.v }

func passed(s sighting) string { return fmt.Sprintf("%d ", s.at) }

func sampleModel(of []sighting, _ *journalTimes) (out []string) {
	for i, before := 0, int64(0); i < len(of); i++ {
		if len(out) == 0 || of[i].at-before >= 4000 {
			out, before = append(out, passed(of[i])), of[i].at
		}
	}
	return out
}

func dedupeModel(of []sighting, _ *journalTimes) (out []string) {
	var kept []sighting
	for _, s := range of {
		kept = slices.DeleteFunc(kept, func(k sighting) bool { return s.at-k.at >= 6000 })
		if slices.ContainsFunc(kept, func(k sighting) bool { return k.k == s.k }) {
			continue
		}
		kept = append(kept, s)
		kept = kept[max(0, len(kept)-2):]
		out = append(out, passed(s))
	}
	return out
}

func dedupeMissingModel(of []sighting, _ *journalTimes) (out []string) {
	before := map[int]int64{}
	for _, s := range of {
		if at, known := before[s.v]; s.v != 0 && known && s.at-at < 6000 {
			continue
		}
		before[s.v] = s.at
		out = append(out, passed(s))
	}
	return out
}

func rateModel(of []sighting, _ *journalTimes) (out []string) {
	var kept []int64
	for _, s := range of {
		if kept = slices.DeleteFunc(kept, func(at int64) bool { return s.at-at >= 9000 }); len(kept) < 3 {
			kept, out = append(kept, s.at), append(out, passed(s))
		}
	}
	return out
}

func thresholdModel(of []sighting, _ *journalTimes) (out []string) {
	active := false
	for _, s := range of {
		if s.v != 0 {
			if s.v > 4 && !active {
				out = append(out, fmt.Sprintf(`%d {"since":%s}`, s.at, stamped(s.at)))
			}
			active = s.v > 4
		}
	}
	return out
}

func countModel(of []sighting, _ *journalTimes) (out []string) {
	var kept []int64
	for _, s := range of {
		kept = append(slices.DeleteFunc(kept, func(at int64) bool { return s.at-at >= 12_000 }), s.at)
		if len(kept) == 3 {
			out, kept = append(out, fmt.Sprintf(`%d {"count":3,"first":%s}`, s.at, stamped(kept[0]))), nil
		}
	}
	return out
}

// fenceModel has two zones: low is v up to 4, left is k up to 1. A message without v has no position.
func fenceModel(on string) func([]sighting, *journalTimes) []string {
	return func(of []sighting, _ *journalTimes) (out []string) {
		var before [2]bool
		for _, s := range of {
			if s.v == 0 {
				continue
			}
			var entered, left []string
			now := [2]bool{s.v <= 4, s.k <= 1}
			for i, name := range []string{`"low"`, `"left"`} {
				switch {
				case now[i] && !before[i]:
					entered = append(entered, name)
				case before[i] && !now[i]:
					left = append(left, name)
				}
			}
			before = now
			if len(left) > 0 || on == "both" && len(entered) > 0 {
				out = append(out, fmt.Sprintf(`%d {"entered":[%s],"left":[%s]}`, s.at, strings.Join(entered, ","), strings.Join(left, ",")))
			}
		}
		return out
	}
}

func windowModel(name string, value func([]sighting) int) func([]sighting, *journalTimes) []string {
	return func(of []sighting, j *journalTimes) []string {
		return windows(of, j, hasV, func(in []sighting) string { return fmt.Sprintf(`"%s":%d,"count":%d`, name, value(in), len(in)) })
	}
}

// TestEveryOperatorHasAModel makes sure that new operators are modelled and fuzzed too.
func TestEveryOperatorHasAModel(t *testing.T) {
	t.Parallel()
	for _, name := range op.OperatorNames() {
		if !slices.ContainsFunc(modelCases(), func(c modelCase) bool { return strings.Contains(c.rule, "    "+name+": ") }) {
			t.Errorf("no model has %s", name)
		}
	}
}
