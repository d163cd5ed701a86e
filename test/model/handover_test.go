package model

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cellgate/test/check"
)

// handoverCase is large enough for every rule.
var handoverCase = HandoverCase{Gateways: 2, Messages: 2, Connects: 3, Kills: 1, Cuts: 1, Absences: 1, States: 5e6}

// TestHandoverHolds searches all histories of the cases.
func TestHandoverHolds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]HandoverCase{
		"two gateways":   handoverCase,
		"three gateways": {Gateways: 3, Messages: 2, Connects: 3, Kills: 1, Absences: 1, States: 5e6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, err := SearchHandovers(c, AllHandover())
			if err != nil || res.Broken != "" {
				t.Errorf("%v %v", res, err)
			}
			t.Logf("%v, whole: %v", res, res.Whole)
		})
	}
}

// TestHandoverRulesAreNeeded removes each rule and prints the shortest history that then breaks a promise.
func TestHandoverRulesAreNeeded(t *testing.T) {
	t.Parallel()
	for name, out := range map[string]func(*HandoverRules){
		"AckAfterSync":   func(r *HandoverRules) { r.AckAfterSync = false },
		"StoreAfterSync": func(r *HandoverRules) { r.StoreAfterSync = false },
		"Connection":     func(r *HandoverRules) { r.Connection = false },
		"Sum":            func(r *HandoverRules) { r.Sum = false },
		"RecordKept":     func(r *HandoverRules) { r.RecordKept = false },
		"SumKept":        func(r *HandoverRules) { r.SumKept = false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := AllHandover()
			out(&r)
			res, err := SearchHandovers(handoverCase, r)
			check.OK(t, err)
			if res.Broken == "" {
				t.Fatalf("nothing breaks without the rule: %v", res)
			}
			t.Logf("without the rule: %v", res)
		})
	}
}

// TestEqualMessages: of two equal messages in a row the second may be lost, but only if the vehicle has sent it to another gateway
// before, so that it comes with DUP. No rule of one gateway tells it from a repeat of the first.
func TestEqualMessages(t *testing.T) {
	t.Parallel()
	c := handoverCase
	c.Equal = true
	for _, dup := range []bool{true, false} {
		r := AllHandover()
		r.Dup = dup
		res, err := SearchHandovers(c, r)
		check.OK(t, err)
		lost := fmt.Sprintf("the vehicle publishes message 2, DUP %v; ", dup)
		if !slices.ContainsFunc(res.Trace, func(s string) bool { return strings.HasPrefix(s, lost) && strings.HasSuffix(s, "repeat: true") }) {
			t.Errorf("with the rule %v: %v", dup, res)
		}
	}
}
