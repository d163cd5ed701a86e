package model

import (
	"testing"

	"cellgate/test/check"
)

// travelCases hold. Not among them, because a fault then hides an alarm: a gateway that is killed while it asks for a state keeps the older one
// that it may have.
var travelCases = map[string]TravelCase{
	"nothing fails":       {Gateways: 2, Records: 3, Connects: 5, States: 8e6},
	"three gateways":      {Gateways: 3, Records: 3, Connects: 3, Stops: 1, Timeouts: 1, States: 8e6},
	"stops":               {Gateways: 2, Records: 3, Connects: 4, Stops: 1, States: 8e6},
	"slow answers":        {Gateways: 2, Records: 3, Connects: 4, Timeouts: 1, States: 8e6},
	"stops, kills":        {Gateways: 2, Records: 3, Connects: 3, Kills: 1, Stops: 1, States: 8e6},
	"kills":               {Gateways: 2, Records: 3, Connects: 4, Kills: 1, States: 8e6},
	"stops, slow answers": {Gateways: 2, Records: 3, Connects: 4, Stops: 1, Timeouts: 1, States: 8e6},
	"kills, slow answers": {Gateways: 2, Records: 3, Connects: 3, Kills: 1, Timeouts: 1, States: 8e6},
}

// TestTravelHolds searches all histories of the cases.
func TestTravelHolds(t *testing.T) {
	t.Parallel()
	for name, c := range travelCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, err := SearchTravels(c, AllTravel())
			if err != nil || res.Broken != "" {
				t.Errorf("%v %v", res, err)
			}
			t.Logf("%v, whole: %v", res, res.Whole)
		})
	}
}

// TestTravelRulesAreNeeded removes each rule and prints the shortest history that then breaks a promise.
func TestTravelRulesAreNeeded(t *testing.T) {
	t.Parallel()
	for rule, b := range map[string]struct {
		out func(*TravelRules)
		in  string
	}{
		"Hold":       {func(r *TravelRules) { r.Hold = false }, "nothing fails"},
		"Over":       {func(r *TravelRules) { r.Over = false }, "nothing fails"},
		"EndFirst":   {func(r *TravelRules) { r.EndFirst = false }, "nothing fails"},
		"Refused":    {func(r *TravelRules) { r.Refused = false }, "nothing fails"},
		"Forget":     {func(r *TravelRules) { r.Forget = false }, "slow answers"},
		"ForgetLost": {func(r *TravelRules) { r.ForgetLost = false }, "kills, slow answers"},
		"Later":      {func(r *TravelRules) { r.Later = false }, "slow answers"},
		"StopWaits":  {func(r *TravelRules) { r.StopWaits = false }, "stops"},
		"LeftSince":  {func(r *TravelRules) { r.LeftSince = false }, "stops, kills"},
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			r := AllTravel()
			b.out(&r)
			res, err := SearchTravels(travelCases[b.in], r)
			check.OK(t, err)
			if res.Broken == "" {
				t.Fatalf("nothing breaks without the rule: %v", res)
			}
			t.Logf("without the rule: %v", res)
		})
	}
}
