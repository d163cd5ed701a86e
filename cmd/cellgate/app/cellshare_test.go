package app

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/shared/kafkaclient"
)

// livingAs returns a gateway's view with these running gateways.
func livingAs(self string, living ...string) *liveness {
	l := &liveness{self: cell.Gateway{Node: self}}
	for _, name := range []string{"gw-1", "gw-2", "gw-3"} {
		l.living = append(l.living, cell.Gateway{Node: name, Lives: slices.Contains(living, name)})
	}
	return l
}

// TestDivision checks that each partition belongs to one running gateway, that all have about as many, and that a
// stopped gateway moves only its own.
func TestDivision(t *testing.T) {
	t.Parallel()
	owner := func(topic string, id int, living ...string) string {
		found := ""
		for _, name := range living {
			if livingAs(name, living...).first(topic, id) {
				found += name
			}
		}
		return found
	}
	counts := map[string]int{}
	for id := range 300 {
		topic := fmt.Sprintf("central.p%d", id%3)
		before, after := owner(topic, id, "gw-1", "gw-2", "gw-3"), owner(topic, id, "gw-1", "gw-3")
		counts[before]++
		if before != "gw-2" && after != before || after == "gw-2" {
			t.Errorf("%s/%d goes from %s to %s", topic, id, before, after)
		}
	}
	for _, name := range []string{"gw-1", "gw-2", "gw-3"} {
		if counts[name] < 70 || counts[name] > 130 {
			t.Errorf("of 300: %v", counts)
		}
	}
	if alone := (&liveness{self: cell.Gateway{Node: "gw-1"}}); !alone.first("central.p0", 0) {
		t.Error("before Redis has told of anybody, nothing is done")
	}
}

// TestPartOfTheLink checks that the cell's bandwidth is divided by the number of running gateways.
func TestPartOfTheLink(t *testing.T) {
	t.Parallel()
	c := &centres{trust: &trust{peers: &peers{liveness: livingAs("gw-1", "gw-1", "gw-2"), member: &member{}}}}
	of := func(time.Time) kafkaclient.FlowLimits {
		return kafkaclient.FlowLimits{Rate: 3000, Rates: [kafkaclient.FlowLanes]int64{0, 1, 500}, Share: 0.25}
	}
	want := kafkaclient.FlowLimits{Rate: 1500, Rates: [kafkaclient.FlowLanes]int64{0, 1, 250}, Share: 0.25}
	if got := c.part(of)(time.Now()); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	c.member = nil
	if got := c.part(of)(time.Now()); got != of(time.Now()) {
		t.Errorf("alone: %+v", got)
	}
}
