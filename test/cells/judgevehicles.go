package cells

import (
	"cmp"
	"slices"
	"time"

	"cellgate/test/scenario"
)

const (
	// faultyOverlap is how long a vehicle may have two connections during a fault.
	faultyOverlap = 35 * time.Second
	// recovery is how long gateways take to recover from a fault: as long as a silent gateway counts as alive.
	recovery = 10 * time.Second
)

// connection is one connection of a vehicle.
type connection struct {
	gateway  string
	from, to time.Time
}

// connections returns a vehicle's connections in order of their start.
func (v *Vehicle) connections() []connection {
	byNumber := map[int]*connection{}
	var all []*connection
	for _, l := range v.Lines {
		switch l.What {
		case Entered:
			byNumber[l.Connection] = &connection{gateway: l.Gateway, from: l.At}
			all = append(all, byNumber[l.Connection])
		case Left:
			byNumber[l.Connection].to = l.At
		}
	}
	out := make([]connection, len(all))
	for i, one := range all {
		out[i] = *one
	}
	return out
}

// beside returns the periods in which a vehicle also had a later connection, in order. later is ordered by start.
func (old *connection) beside(later []connection) (periods []connection) {
	end := func(of connection) time.Time {
		if of.to.IsZero() || of.to.After(old.to) && !old.to.IsZero() {
			return old.to
		}
		return of.to
	}
	for _, young := range later {
		to := end(young)
		if last := len(periods) - 1; last >= 0 && !young.from.After(periods[last].to) {
			if to.After(periods[last].to) {
				periods[last].to = to
			}
		} else if young.from.Before(to) {
			periods = append(periods, connection{young.gateway, young.from, to})
		}
	}
	return periods
}

// connectedOnce checks that an earlier connection ends when the vehicle opens a later one. A stopped gateway cannot
// close connections; that time does not count.
func (c *court) connectedOnce() {
	for _, v := range c.Vehicles {
		all := v.connections()
		for i, old := range all {
			later := all[i+1:]
			if old.to.IsZero() && len(later) > 0 {
				c.violated("%s: connected to %s from %s, and to %s from %s, for good", v.VIN, old.gateway, clock(old.from), later[0].gateway, clock(later[0].from))
				continue
			}
			for _, both := range old.beside(later) {
				took, limit := both.to.Sub(both.from)-c.stopped(old.gateway, both.from, both.to), c.Overlap
				if c.faultIn(both.from.Add(-recovery), both.to) {
					limit = faultyOverlap
				}
				if took > limit {
					c.violated("%s: connected to %s until %s, and to %s from %s to %s: %v, limit %v", v.VIN, old.gateway, clock(old.to), both.gateway, clock(both.from), clock(both.to), took, limit)
				}
			}
		}
	}
}

// stopped returns how long a gateway was stopped within a period.
func (c *court) stopped(gateway string, from, to time.Time) (sum time.Duration) {
	for _, f := range c.Faults {
		if f.Kind == FaultStopped && f.On == gateway && f.overlaps(from, to) {
			begin, end := f.From, f.To
			if begin.Before(from) {
				begin = from
			}
			if end.After(to) {
				end = to
			}
			sum += end.Sub(begin)
		}
	}
	return sum
}

// telemetry checks that acknowledged messages are in Kafka unless the gateway's disk was lost.
func (c *court) telemetry() {
	there := map[string]map[int64]bool{}
	for _, r := range c.Telemetry {
		if there[r.VIN] == nil {
			there[r.VIN] = map[int64]bool{}
		}
		there[r.VIN][r.Seq] = true
	}
	for _, v := range c.Vehicles {
		for _, a := range v.Acked {
			if !there[v.VIN][a.Seq] && !slices.ContainsFunc(append(a.Before, a.Gateway), func(gateway string) bool { return c.wiped(gateway, a.At.Add(-a.Took)) }) {
				c.violated("%s: message %d, acknowledged by %s at %s, is not in Kafka", v.VIN, a.Seq, a.Gateway, clock(a.At))
			}
		}
	}
}

// order checks that a vehicle's messages, sorted by (epoch, journal), first appear in the order in which they were
// sent, and that each epoch belongs to one gateway.
func (c *court) order() {
	by := map[string][]Telemetered{}
	for _, r := range c.Telemetry {
		if r.Epoch == 0 {
			c.violated("%s: message %d (%s, %d-%d) has no epoch", r.VIN, r.Seq, r.Node, r.Journal, r.Number)
			continue
		}
		by[r.VIN] = append(by[r.VIN], r)
	}
	for vin, all := range by {
		slices.SortFunc(all, func(a, b Telemetered) int {
			return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Journal, b.Journal), cmp.Compare(a.Number, b.Number))
		})
		seen, last := map[int64]bool{}, int64(0)
		for i, r := range all {
			if i > 0 && all[i-1].Epoch == r.Epoch && all[i-1].Node != r.Node {
				c.violated("%s: epoch %d is of %s and of %s", vin, r.Epoch, all[i-1].Node, r.Node)
			}
			if !seen[r.Seq] && r.Seq < last {
				c.violated("%s: message %d (epoch %d, %s, %d-%d) comes behind %d", vin, r.Seq, r.Epoch, r.Node, r.Journal, r.Number, last)
			}
			seen[r.Seq], last = true, max(last, r.Seq)
		}
	}
}

// publishedPresence returns the events on vehicle.presence per vehicle, sorted by (epoch, seq), without duplicates.
func (c *court) publishedPresence() map[string][]scenario.PresenceEvent {
	by := map[string][]scenario.PresenceEvent{}
	for _, e := range c.Presence {
		by[e.VIN] = append(by[e.VIN], e)
	}
	for vin, all := range by {
		slices.SortStableFunc(all, func(a, b scenario.PresenceEvent) int {
			return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
		})
		by[vin] = slices.CompactFunc(all, func(a, b scenario.PresenceEvent) bool {
			if a.Epoch != b.Epoch || a.Seq != b.Seq {
				return false
			}
			if a != b {
				c.violated("%s: two events in one place: %+v and %+v", vin, a, b)
			}
			return true
		})
	}
	return by
}

// presence checks that the last event of each vehicle is its actual state.
func (c *court) presence() {
	all := c.publishedPresence()
	for vin, at := range c.Truth {
		events := all[vin]
		if len(events) == 0 {
			c.violated("%s: no presence was published", vin)
			continue
		}
		switch last := events[len(events)-1]; {
		case at == "" && last.Event != "disconnected":
			c.violated("%s: the last published is %+v, but it is not connected", vin, last)
		case at != "" && (last.Event == "disconnected" || last.Node != at):
			c.violated("%s: the last published is %+v, but it is connected to %s", vin, last, at)
		}
	}
}

// sessions checks that every session except the current one ends with exactly one disconnected event with a reason.
func (c *court) sessions() {
	for vin, events := range c.publishedPresence() {
		ends := map[int64]int{}
		for _, e := range events {
			if e.Event == "disconnected" {
				ends[e.Epoch]++
				if e.Reason == "" {
					c.violated("%s: no reason in %+v", vin, e)
				}
			} else if ends[e.Epoch] > 0 {
				c.violated("%s: %+v behind the session's end", vin, e)
			}
		}
		living := c.Truth[vin] != ""
		for i, e := range events {
			last := i+1 == len(events) || events[i+1].Epoch != e.Epoch
			if n := ends[e.Epoch]; last && n != 1 && (n != 0 || !living || i+1 != len(events)) {
				c.violated("%s: the session of epoch %d at %s has %d ends", vin, e.Epoch, e.Node, n)
			}
		}
	}
}
