package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"cellgate/broker/cell"
	"cellgate/broker/shared/problem"
	"cellgate/configs"
)

// GatewayList is GET /v1/gateways.
type GatewayList struct {
	Gateways []GatewayStatus `json:"gateways"`
	// Waiting lists the members that have not yet offered what they remember to the present Redis. Commands wait for
	// them.
	Waiting []WaitedFor `json:"waiting"`
}

// WaitedFor is a member that slots wait for. A Redis without cluster has one slot.
type WaitedFor struct {
	Node  string `json:"node"`
	Slots int    `json:"slots"`
}

// ForgottenGateway is DELETE /v1/gateways/{node}.
type ForgottenGateway struct {
	Node  string `json:"node"`
	Slots int    `json:"slots"` // number of slots it was a member of; 0 when it is a member of none
	// Waiting lists the members that are still waited for.
	Waiting []WaitedFor `json:"waiting"`
}

// Reasons for which a gateway is not forgotten.
var (
	errForgetSelf   = errors.New("a gateway cannot forget itself: ask another one of the cell")
	errForgetLiving = errors.New("it is running: stop it first; one that was killed counts as running for 10 s")
	errForgetNobody = errors.New("no member of the cell has this name: it never joined, or was forgotten")
	errForgetEarly  = errors.New("this gateway has not joined on every slot yet: try again")
)

// noticeMembers makes the other gateways read the members again.
const noticeMembers = "members"

func (a *gateway) listGateways(w http.ResponseWriter, _ *http.Request) {
	self := func(g GatewayStatus) bool { return g.Node == a.cfg.Cell.Node }
	list := GatewayList{Gateways: a.listedGateways(), Waiting: []WaitedFor{}}
	if a.member == nil { // a gateway of another name may have run here before
		list.Gateways = slices.DeleteFunc(list.Gateways, func(g GatewayStatus) bool { return !self(g) })
	}
	if !slices.ContainsFunc(list.Gateways, self) { // Redis has not answered yet
		list.Gateways = append(list.Gateways, GatewayStatus{
			Node: a.cfg.Cell.Node, Address: a.cfg.HTTP.Address, Version: a.build.Version, Phase: a.phaseName(), Started: a.started.UTC(), Lives: true,
			Connections: a.broker.Connections(),
		})
	}
	if a.member != nil {
		list.Waiting = a.member.waitedFor()
	}
	writeJSON(w, http.StatusOK, list)
}

func (a *gateway) forgetGateway(w http.ResponseWriter, r *http.Request) {
	node := r.PathValue("node")
	out, err := a.forget(r.Context(), node)
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, out)
	case errors.Is(err, errForgetSelf), errors.Is(err, errForgetLiving):
		problem.Write(w, http.StatusConflict, "", node+": "+err.Error(), nil)
	case errors.Is(err, errForgetNobody):
		problem.Write(w, http.StatusNotFound, "", node+": "+err.Error(), nil)
	default:
		w.Header().Set("Retry-After", "1")
		problem.Write(w, http.StatusServiceUnavailable, "", node+": not forgotten everywhere: repeat the call: "+err.Error(), nil)
	}
}

// forget removes a member that is permanently gone, with what only it remembered.
func (a *gateway) forget(ctx context.Context, node string) (*ForgottenGateway, error) {
	switch {
	case node == a.cfg.Cell.Node:
		return nil, errForgetSelf
	case a.member == nil:
		return nil, errForgetNobody
	}
	if err := a.liveness.beat(ctx, configs.CellTimeout); err != nil { // the list of living gateways must be current
		return nil, err
	}
	all, _ := a.liveness.gateways()
	known := false
	for _, g := range all {
		if known = known || g.Node == node; g.Node == node && g.Lives {
			return nil, errForgetLiving
		}
	}
	slots, before, err := a.member.forget(ctx, node)
	if err != nil {
		return nil, err
	}
	if slots == 0 && !known && !before {
		return nil, errForgetNobody
	}
	for _, g := range a.asks.others() { // if a notice is lost, that gateway remembers the name until it joins again
		_, _ = a.member.notify(ctx, g.Node, noticeMembers, "")
	}
	return &ForgottenGateway{Node: node, Slots: slots, Waiting: a.member.waitedFor()}, nil
}

// waitedFor returns the members that were waited for at the last look.
func (m *member) waitedFor() []WaitedFor {
	all := []WaitedFor{}
	for _, node := range m.missing() {
		m.mu.Lock()
		n := m.waiting[node]
		m.mu.Unlock()
		if n > 0 {
			all = append(all, WaitedFor{Node: node, Slots: n})
		}
	}
	return all
}

// forget removes a member from every slot. It returns the number of slots, and whether a slot had forgotten it before.
// An unconfirmed removal is an error and must be repeated. On success, every slot that waited only for that member is
// open here.
func (m *member) forget(ctx context.Context, node string) (count int, before bool, err error) {
	m.work.Lock()
	defer m.work.Unlock()
	slots := make([]int, len(m.slots))
	for i := range slots {
		slots[i] = i
	}
	for some := range slices.Chunk(slots, offeringSaved) {
		joined, forgotten, err := m.forgetIn(ctx, some, node)
		count, before = count+len(joined), before || forgotten
		m.mu.Lock()
		for slot := range joined {
			m.offerToLocked(slot) // it opens after this gateway's offer
			if !m.memory[slot].Remembers {
				delete(joined, slot) // before its own offer it has nothing to save
			}
		}
		m.mu.Unlock()
		if err = errors.Join(err, m.keep(joined)); err != nil {
			m.wakeUp()
			return count, before, err
		}
	}
	if count > 0 {
		m.offerPending(ctx)
	}
	return count, before, nil
}

// forgetIn removes a member from some slots, several at a time. It returns the answers of those that had it, and
// whether a slot had forgotten it before.
func (m *member) forgetIn(ctx context.Context, slots []int, node string) (map[int]cell.Joined, bool, error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	var failed error
	var before bool
	out := make(map[int]cell.Joined, len(slots))
	places := make(chan struct{}, offering)
	for _, slot := range slots {
		places <- struct{}{}
		mu.Lock()
		stop := failed != nil
		mu.Unlock()
		if stop {
			break
		}
		all.Go(func() {
			defer func() { <-places }()
			j, was, err := m.forgetAt(ctx, slot, node)
			mu.Lock()
			defer mu.Unlock()
			switch before = before || was.Forgotten; {
			case err != nil:
				failed = fmt.Errorf("slot %d: %w", slot, err)
			case was.There:
				out[slot] = j
			}
		})
	}
	all.Wait()
	return out, before, failed
}

// forgetAt removes a member from one slot. It returns what this gateway or Redis knew of it.
func (m *member) forgetAt(ctx context.Context, slot int, node string) (j cell.Joined, was cell.Registration, err error) {
	was, err = m.store.Registered(ctx, slot, node, m.self.Node)
	if err != nil {
		return j, was, err
	}
	memory := m.memory[slot]
	others := slices.DeleteFunc(slices.Clone(memory.Members), func(s string) bool { return s == node })
	was.There = was.There || len(others) < len(memory.Members)
	switch memory.Members = others; {
	case !was.There:
		return j, was, nil
	case !was.Caller:
		return j, was, errForgetEarly
	}
	j, err = m.store.Forget(ctx, slot, node, memory)
	return j, was, err
}
