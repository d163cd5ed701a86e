package app

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/presence"
	"cellgate/broker/session"
	"cellgate/broker/shared/remote"
	"cellgate/configs"
)

// watch publishes the ends of sessions that no other gateway publishes: those of dead gateways, when this is the first
// of the living ones, and its own that only Redis has.
func (c *cellPresence) watch(ctx context.Context) {
	for remote.Pause(ctx, time.Second) {
		if c.m.anyAway() || !c.live.isComplete() {
			continue
		}
		all, _ := c.live.gateways()
		boots, first := living(all, c.m.self.Node)
		gone := len(c.boots) == 0
		for boot := range c.boots {
			gone = gone || !boots[boot]
		}
		if !gone && time.Since(c.walk) < configs.CellWalk {
			c.boots = boots
			_ = c.endLeft(ctx) // what failed is tried again
			continue
		}
		if c.walkAll(ctx, first) != nil {
			continue
		}
		c.boots, c.walk = boots, time.Now()
		_ = c.endLeft(ctx)
	}
}

// living returns the living boots, and whether self is the first of their gateways by name.
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

// walkAll finds the sessions whose ends are to be published.
func (c *cellPresence) walkAll(ctx context.Context, first bool) error {
	var left []cell.Session
	for slot := range c.m.store.Slots() {
		for one, err := range c.m.store.Sessions(ctx, slot) {
			switch {
			case err != nil:
				return err
			case one.Boot == c.m.self.Boot && c.over(&one), one.Boot != c.m.self.Boot && first:
				left = append(left, one)
			}
		}
	}
	c.left = left
	maps.DeleteFunc(c.handed, func(_ ending, at time.Time) bool { return time.Since(at) > republishAfter })
	return nil
}

// endLeft publishes the ends of the sessions found by a walk. Those that fail stay for the next try.
func (c *cellPresence) endLeft(ctx context.Context) error {
	if len(c.left) == 0 {
		return nil
	}
	if err := c.live.beat(ctx, configs.CellTimeout); err != nil { // a gateway that connected a vehicle meanwhile must count as living
		return err
	}
	all, _ := c.live.gateways()
	boots, _ := living(all, c.m.self.Node)
	var mu sync.Mutex
	var ends sync.WaitGroup
	var left []cell.Session
	lost := map[string]int{}
	places := make(chan struct{}, configs.CellConcurrent)
	for _, one := range c.left {
		own := one.Boot == c.m.self.Boot
		mu.Lock()
		handed := c.handed[ending{one.VIN, one.Epoch}]
		mu.Unlock()
		if own && !c.over(&one) || !own && boots[one.Boot] || time.Since(handed) < republishAfter {
			continue
		}
		places <- struct{}{}
		ends.Go(func() {
			defer func() { <-places }()
			done := c.end(ctx, &one, own)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case !done:
				left = append(left, one)
			case !own:
				lost[one.Node]++
				fallthrough
			default:
				c.handed[ending{one.VIN, one.Epoch}] = time.Now()
			}
		})
	}
	ends.Wait()
	c.left = left
	for node, n := range lost {
		c.log.Warn("a gateway no longer runs; its vehicles are reported as disconnected", slog.String("node", node), slog.Int("vehicles", n))
	}
	return nil
}

// over reports whether a session that Redis has for this gateway does not exist here and its end is not already queued.
func (c *cellPresence) over(one *cell.Session) bool {
	of, conn := c.claims.of(one.VIN)
	c.mu.Lock()
	_, waiting := c.byVIN[one.VIN]
	c.mu.Unlock()
	if waiting || one.Ended != nil && time.Since(one.Ended.At) < republishAfter {
		return false
	}
	if of == nil {
		return true
	}
	_, asking, _, ended := c.claims.state(of)
	return !asking && (conn.Epoch != one.Epoch || ended)
}

// republishAfter is how long an end may be on its way to Kafka before it is published again.
const republishAfter = time.Minute

// end publishes the end of a session. An end that was numbered before is published with that number.
func (c *cellPresence) end(ctx context.Context, one *cell.Session, own bool) bool {
	if c.m.isAwayFor(one.VIN) || ctx.Err() != nil {
		return false
	}
	e := connEvent{kind: presence.Disconnected, at: time.Now(), reason: presence.GatewayLost}
	if own {
		e.reason = string(session.ReasonLost)
		if last, open := c.outbox.Last(one.VIN); one.Ended == nil && (!open || last.Kind == presence.Disconnected || last.As.Epoch != one.Epoch) {
			return c.remove(ctx, one, &e)
		}
	}
	return c.numberEvent(one.VIN, one.Connection, &e)
}

// remove deletes a session of this gateway from Redis whose end it has published, or of which it published nothing.
// Redis has such a session after a restore from an older state, or when the answer to its claim was lost.
func (c *cellPresence) remove(ctx context.Context, one *cell.Session, e *connEvent) bool {
	_, _, err := c.m.store.Presence(ctx, one.VIN, one.Connection, e.kind.String(), e.reason, e.at, 0)
	if err == nil {
		err = c.m.store.EndPublished(ctx, one.VIN, one.Epoch)
	}
	return err == nil
}
