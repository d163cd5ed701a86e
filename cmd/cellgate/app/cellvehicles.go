package app

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"cellgate/broker/cell"
)

// localVehicles returns up to limit vehicles of this gateway after a VIN, and whether there are more.
func (a *gateway) localVehicles(prefix, after string, limit int) (page VehiclePage) {
	page.Vehicles = []Vehicle{}
	for {
		found := a.sessions.Find(prefix, after, maxPage) // the cost depends on the number of sessions, not on the length of the list
		for i := range found {
			if found[i].Vehicle && len(page.Vehicles) < limit {
				page.Vehicles = append(page.Vehicles, a.vehicleOf(&found[i], false))
			}
			after = found[i].Key
			if len(page.Vehicles) == limit {
				page.Next = after
				return page
			}
		}
		if len(found) < maxPage {
			return page
		}
	}
}

// answer answers a question of another gateway.
func (a *gateway) answer(ctx context.Context, q *question) any {
	switch q.What {
	case "vehicles":
		return a.localVehicles(q.Prefix, q.After, min(max(q.Limit, 1), maxPage))
	case "vehicle":
		if v, known := a.localVehicle(q.VIN); known {
			return v
		}
	case "disconnect":
		return a.disconnect(q.VIN, q.Endpoint)
	case "operators":
		return a.moves.give(ctx, q)
	}
	return nil
}

// cellVehicles adds the vehicles of the other gateways to a page. For a vehicle that two gateways know it takes the one
// where the vehicle is, or last was, connected.
func (a *gateway) cellVehicles(ctx context.Context, page *VehiclePage, prefix, after string, limit int) {
	if a.member == nil {
		return
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	more := page.Next != ""
	for _, g := range a.asks.others() {
		all.Go(func() {
			var theirs VehiclePage
			err := a.asks.ask(ctx, g.Node, question{What: "vehicles", Prefix: prefix, After: after, Limit: limit}, nil, &theirs)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				page.Missing = append(page.Missing, g.Node)
				return
			}
			page.Vehicles = append(page.Vehicles, theirs.Vehicles...)
			more = more || theirs.Next != ""
		})
	}
	all.Wait()
	slices.Sort(page.Missing)
	slices.SortFunc(page.Vehicles, func(x, y Vehicle) int {
		return cmp.Or(strings.Compare(x.VIN, y.VIN), compareBool(y.Connected, x.Connected), y.Since.Compare(x.Since))
	})
	page.Vehicles = slices.CompactFunc(page.Vehicles, func(x, y Vehicle) bool { return x.VIN == y.VIN })
	if more = more || len(page.Vehicles) > limit; len(page.Vehicles) > limit {
		page.Vehicles = page.Vehicles[:limit]
	}
	if page.Next = ""; more && len(page.Vehicles) > 0 {
		page.Next = page.Vehicles[len(page.Vehicles)-1].VIN
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// elsewhere returns the gateway that has or last had a vehicle, unless it is this one, and what Redis knows of the
// vehicle.
func (a *gateway) elsewhere(ctx context.Context, vin string) (node string, v cell.Vehicle, known bool) {
	if a.member == nil || a.member.isAwayFor(vin) {
		return "", v, false
	}
	ctx, cancel := context.WithTimeout(ctx, a.member.limit())
	defer cancel()
	v, verdict, err := a.member.store.Vehicle(ctx, vin)
	if err != nil || verdict != cell.OK {
		return "", v, false
	}
	if v.Owner.Node != a.member.self.Node {
		node = v.Owner.Node
	}
	return node, v, true
}

// cellVehicle returns a vehicle from whichever gateway has it; when that does not answer, what Redis shows.
func (a *gateway) cellVehicle(ctx context.Context, vin string) (Vehicle, bool) {
	v, here := a.localVehicle(vin)
	if here && v.Connected {
		return v, true
	}
	node, shown, known := a.elsewhere(ctx, vin)
	if !known {
		return v, here
	}
	var theirs *Vehicle
	if node != "" && a.asks.ask(ctx, node, question{What: "vehicle", VIN: vin}, nil, &theirs) == nil && theirs != nil {
		return *theirs, true
	}
	if here {
		return v, true
	}
	return Vehicle{VIN: vin, Node: shown.Owner.Node, Presence: presenceShown(&shown)}, shown.Session != nil
}

// disconnectAnywhere ends a vehicle's connection on whichever gateway has it.
func (a *gateway) disconnectAnywhere(ctx context.Context, vin, endpoint string) bool {
	if a.disconnect(vin, endpoint) {
		return true
	}
	node, _, _ := a.elsewhere(ctx, vin)
	done := false
	return node != "" && a.asks.ask(ctx, node, question{What: "disconnect", VIN: vin, Endpoint: endpoint}, nil, &done) == nil && done
}
