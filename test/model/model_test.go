package model

import (
	"os"
	"strconv"
	"testing"

	"cellgate/test/check"
)

// broken removes each rule and names a case that shows why it is needed.
var broken = []struct {
	rule string
	out  func(*Rules)
	c    Case
}{
	{"WaitBeforeTelling", func(r *Rules) { r.WaitBeforeAnswer = false }, Case{Gateways: 2, Commands: 1, Servers: 2, Connects: 1, Promotions: 1}},
	{"WaitBeforeWire", func(r *Rules) { r.WaitBeforeWire = false }, Case{Gateways: 1, Commands: 1, Servers: 2, Connects: 1, Promotions: 1, Disks: 1}},
	{"WaitForAll", func(r *Rules) { r.WaitForAll = false }, Case{Gateways: 2, Commands: 1, Servers: 3, Connects: 1, Promotions: 1}},
	{"SameServerBehindWait", func(r *Rules) { r.SameServerAfterWait = false }, Case{Gateways: 1, Commands: 1, Servers: 2, Connects: 1, Promotions: 2, Disks: 1}},
	{"ReadsWrite", func(r *Rules) { r.ReadsWrite = false }, Case{Gateways: 2, Commands: 1, Servers: 2, Connects: 1, Promotions: 1, Looks: true}},
	{"Store", func(r *Rules) { r.Store = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1}},
	{"Closed", func(r *Rules) { r.Closed = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1}},
	{"AcceptOpen", func(r *Rules) { r.AcceptOpen = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Contents: true}},
	{"ReservedHere", func(r *Rules) { r.ReservedHere = false }, Case{Gateways: 2, Commands: 2, Servers: 2, Promotions: 1, SameID: true}},
	{"Offers", func(r *Rules) { r.Offers = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1}},
	{"AllOffer", func(r *Rules) { r.AllOffer = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1}},
	{"OffersLanded", func(r *Rules) { r.OffersLanded = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 2}},
	{"OfferAnswers", func(r *Rules) { r.OfferAnswers = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Beside: true}},
	{"DropAnswers", func(r *Rules) { r.DropAnswers = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Beside: true}},
	{"OfferEnds", func(r *Rules) { r.OfferEnds = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1}},
	{"Salt", func(r *Rules) { r.Salt = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 2}},
	{"MergeLater", func(r *Rules) { r.MergeLater = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1}},
	{"Doubt", func(r *Rules) { r.Doubt = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Disks: 1}},
	{"FreshWaits", func(r *Rules) { r.FreshWaits = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Disks: 1}},
	{"YoungerConnection", func(r *Rules) { r.YoungerConnection = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 2}},
	{"Clock", func(r *Rules) { r.Clock = false }, Case{Gateways: 2, Servers: 1, Connects: 3, Losses: 1}},
	{"Beginning", func(r *Rules) { r.Beginning = false }, Case{Gateways: 2, Servers: 1, Connects: 2, Losses: 1}},
	{"ConfirmEpoch", func(r *Rules) { r.ConfirmEpoch = false }, Case{Gateways: 2, Servers: 2, Connects: 2, Promotions: 1}},
	{"EpochKnown", func(r *Rules) { r.EpochKnown = false }, Case{Gateways: 1, Servers: 2, Connects: 1, Promotions: 1}},
	{"Reclaim", func(r *Rules) { r.Reclaim = false }, Case{Gateways: 2, Commands: 1, Servers: 2, Connects: 1, Promotions: 1}},
	{"CancelUnsent", func(r *Rules) { r.CancelUnsent = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1}},
	{"ExpiredNotSent", func(r *Rules) { r.ExpiredNotSent = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Expiry: true}},
	{"ExpiredNotAccepted", func(r *Rules) { r.ExpiredNotAccepted = false }, Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Expiry: true, Removal: true}},
}

// TestRulesAreNeeded removes each rule and prints the shortest history that then breaks a promise.
func TestRulesAreNeeded(t *testing.T) {
	t.Parallel()
	for _, b := range broken {
		t.Run(b.rule, func(t *testing.T) {
			t.Parallel()
			r := All()
			b.out(&r)
			b.c.States = 2e6
			res, err := Search(b.c, r, nil)
			check.OK(t, err)
			if res.Broken == "" {
				t.Fatalf("nothing breaks without the rule: %v", res)
			}
			t.Logf("without the rule: %v", res)
			if whole, err := Search(upTo(b.c, len(res.Trace)), All(), nil); err != nil || whole.Broken != "" {
				t.Errorf("with every rule: %v %v", whole, err)
			}
		})
	}
}

func upTo(c Case, depth int) Case {
	c.Depth = depth
	return c
}

// TestOwnerSendsForOrderAlone checks that outcomes do not depend on who sends, because vehicles drop repetitions. The
// rule only keeps gateways without a connection from marking commands as sent.
func TestOwnerSendsForOrderAlone(t *testing.T) {
	t.Parallel()
	r := All()
	r.OwnerSends = false
	res, err := Search(Case{Gateways: 2, Commands: 1, Servers: 1, Connects: 2, Depth: 16, States: 1e6}, r, nil)
	if err != nil || res.Broken != "" {
		t.Errorf("%v %v", res, err)
	}
}

// Cases that hold. Depth is that of the quick search; `make soak` searches up to MODEL_STATES states each.
var held = map[string]Case{
	"claims, requests that land late, failovers":       {Gateways: 2, Servers: 2, Connects: 2, Promotions: 2, Late: true, Depth: 9},
	"claims, three gateways":                           {Gateways: 3, Servers: 2, Connects: 3, Promotions: 1, Kills: 1, Late: true, Depth: 7},
	"claims, notices, a failover":                      {Gateways: 2, Servers: 2, Connects: 3, Promotions: 1, Notices: true, Depth: 9},
	"claims, notices that come late, lost data":        {Gateways: 2, Servers: 1, Connects: 3, Losses: 1, Late: true, Notices: true, Depth: 9},
	"claims, lost data":                                {Gateways: 2, Servers: 2, Connects: 3, Promotions: 1, Losses: 1, Late: true, Depth: 8},
	"failover, split brain":                            {Gateways: 2, Commands: 1, Servers: 2, Connects: 1, Promotions: 1, Depth: 13},
	"two failovers: demoted and promoted":              {Gateways: 1, Commands: 1, Servers: 2, Connects: 1, Promotions: 2, Disks: 1, Depth: 15},
	"failover among three servers":                     {Gateways: 2, Commands: 1, Servers: 3, Connects: 1, Promotions: 1, Depth: 11},
	"failover among three servers, two":                {Gateways: 1, Commands: 1, Servers: 3, Connects: 1, Promotions: 2, Kills: 1, Depth: 10},
	"a move, requests that land late":                  {Gateways: 2, Commands: 1, Servers: 1, Connects: 2, Late: true, Depth: 12},
	"lost data":                                        {Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Beside: true, Depth: 13},
	"lost data, two contents":                          {Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Contents: true, Beside: true, Depth: 12},
	"lost data twice":                                  {Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 2, Beside: true, Depth: 11},
	"lost data and a lost disk":                        {Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Disks: 1, Beside: true, Depth: 12},
	"lost data, a failover, a lost disk":               {Gateways: 2, Commands: 1, Servers: 2, Connects: 1, Promotions: 1, Losses: 1, Disks: 1, Beside: true, Depth: 9},
	"lost data, a gateway forgotten":                   {Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Kills: 1, Forgets: 1, Beside: true, Depth: 11},
	"a failover, a gateway forgotten":                  {Gateways: 2, Commands: 1, Servers: 2, Connects: 1, Promotions: 1, Kills: 1, Forgets: 1, Late: true, Depth: 9},
	"expiry, removal, looks, a failover":               {Gateways: 2, Commands: 1, Servers: 2, Connects: 1, Promotions: 1, Expiry: true, Looks: true, Removal: true, Late: true, Depth: 9},
	"expiry, lost data, a lost disk":                   {Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Disks: 1, Expiry: true, Beside: true, Depth: 11},
	"two commands, a failover":                         {Gateways: 2, Commands: 2, Servers: 2, Connects: 1, Promotions: 1, Depth: 10},
	"two commands, one id, a failover":                 {Gateways: 2, Commands: 2, Servers: 2, Promotions: 1, SameID: true, Late: true, Depth: 9},
	"two commands, lost data":                          {Gateways: 2, Commands: 2, Servers: 1, Connects: 1, Losses: 1, Beside: true, Depth: 10},
	"two commands, two connections, kills":             {Gateways: 2, Commands: 2, Servers: 1, Connects: 2, Kills: 1, Late: true, Depth: 8},
	"three gateways, a failover":                       {Gateways: 3, Commands: 1, Servers: 2, Connects: 1, Promotions: 1, Depth: 10},
	"three gateways, lost data":                        {Gateways: 3, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Beside: true, Depth: 10},
	"three gateways, lost data, a lost disk, a killed": {Gateways: 3, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Disks: 1, Kills: 1, Beside: true, Depth: 8},
}

// TestPromisesHold searches every case up to its depth.
func TestPromisesHold(t *testing.T) {
	t.Parallel()
	states := 0
	if text := os.Getenv("MODEL_STATES"); text != "" {
		var err error
		if states, err = strconv.Atoi(text); err != nil {
			t.Fatalf("MODEL_STATES: %v", err)
		}
	}
	for name, c := range held {
		t.Run(name, func(t *testing.T) {
			if states == 0 { // a search takes gigabytes: one at a time
				t.Parallel()
			}
			c.Depth -= spared
			c.States = 2e6
			if states > 0 {
				c.Depth, c.States = 0, states
			}
			res, err := Search(c, All(), nil)
			if res.Broken != "" || err != nil && states == 0 {
				t.Errorf("%v %v", res, err)
			}
			t.Logf("%v, whole: %v", res, res.Whole)
		})
	}
}
