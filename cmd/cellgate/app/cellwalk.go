package app

import (
	"context"
	"log/slog"
	"maps"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/presence"
	"cellgate/broker/session"
	"cellgate/configs"
)

// watch tells the ends of sessions that nobody else tells: those of gateways that live no more, when this is the first of those that
// do, and its own that Redis has and it has not.
func (c *cellPresence) watch(ctx context.Context) {
	for pause(ctx, time.Second) {
		all, heard := c.live.gateways()
		if heard.IsZero() || c.m.away.Load() {
			continue
		}
		boots, first := living(all, c.m.self.Node)
		gone := len(c.boots) == 0
		for boot := range c.boots {
			gone = gone || !boots[boot]
		}
		if !gone && time.Since(c.walk) < configs.CellWalk {
			c.boots = boots
			continue
		}
		if err := c.walkAll(ctx, first); c.m.note(err) != nil {
			continue
		}
		c.boots, c.walk = boots, time.Now()
	}
}

// living are the boots that live. first: of those the caller's name is the first.
func living(all []cell.Gateway, self string) (boots map[string]bool, first bool) {
	boots, first = map[string]bool{}, true
	for _, g := range all {
		if g.Lives {
			boots[g.Boot] = true
			first = first && self <= g.Node
		}
	}
	return boots, first
}

func (c *cellPresence) walkAll(ctx context.Context, first bool) error {
	var orphans []cell.Session
	for slot := range c.m.store.Slots() {
		for one, err := range c.m.store.Sessions(ctx, slot) {
			if err != nil {
				return err
			}
			switch {
			case one.Boot == c.m.self.Boot:
				c.own(&one)
			case first:
				orphans = append(orphans, one)
			}
		}
	}
	if len(orphans) == 0 {
		return nil
	}
	if err := c.live.beat(ctx, configs.CellTimeout); err != nil { // who has connected a vehicle meanwhile lives
		return err
	}
	all, _ := c.live.gateways()
	boots, _ := living(all, c.m.self.Node)
	lost := map[string]int{}
	for i := range orphans {
		if one := &orphans[i]; !boots[one.Boot] && ctx.Err() == nil && c.end(one, presence.GatewayLost) {
			lost[one.Node]++
		}
	}
	for node := range maps.Keys(lost) {
		c.log.Warn("a gateway lives no more: its vehicles are told to be disconnected", slog.String("node", node), slog.Int("vehicles", lost[node]))
	}
	return nil
}

// own ends what Redis has as a session of this gateway when there is no such connection.
func (c *cellPresence) own(one *cell.Session) {
	of, conn := c.claims.of(one.VIN)
	c.mu.Lock()
	_, waiting := c.byVIN[one.VIN]
	c.mu.Unlock()
	if waiting {
		return
	}
	if of != nil {
		_, asking, _, ended := c.claims.state(of)
		if asking || conn.Epoch == one.Epoch && !ended {
			return
		}
	}
	c.end(one, string(session.ReasonLost))
}

// untold is how long an end may be on its way to Kafka before it is told once more.
const untold = time.Minute

// end tells the end of a session, if it is not on its way.
func (c *cellPresence) end(one *cell.Session, reason string) bool {
	if one.Ended == nil {
		return c.tell(one.VIN, one.Connection, presence.Disconnected, reason, time.Now())
	}
	if time.Since(one.Ended.At) < untold {
		return false
	}
	c.hand(one.VIN, one.Connection, presence.Disconnected, *one.Ended)
	return true
}
