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
	"cellgate/configs"
)

// watch tells the ends of sessions that nobody else tells: those of gateways that live no more, when this is the first of those that
// do, and its own that Redis has and it has not.
func (c *cellPresence) watch(ctx context.Context) {
	for pause(ctx, time.Second) {
		all, heard := c.live.gateways()
		if heard.IsZero() || c.m.away.Load() || !c.m.steady() {
			continue
		}
		boots, first := living(all, c.m.self.Node)
		gone := len(c.boots) == 0
		for boot := range c.boots {
			gone = gone || !boots[boot]
		}
		if !gone && time.Since(c.walk) < configs.CellWalk {
			c.boots = boots
			_ = c.m.note(c.endLeft(ctx))
			continue
		}
		if err := c.walkAll(ctx, first); c.m.note(err) != nil {
			continue
		}
		c.boots, c.walk = boots, time.Now()
		_ = c.m.note(c.endLeft(ctx))
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

// walkAll finds the sessions whose ends are to be told.
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
	maps.DeleteFunc(c.handed, func(_ ending, at time.Time) bool { return time.Since(at) > untold })
	return nil
}

// endLeft tells the ends of the sessions that a walk has found. Those that cannot be told now stay.
func (c *cellPresence) endLeft(ctx context.Context) error {
	if len(c.left) == 0 {
		return nil
	}
	if err := c.live.beat(ctx, configs.CellTimeout); err != nil { // who has connected a vehicle meanwhile lives
		return err
	}
	all, _ := c.live.gateways()
	boots, _ := living(all, c.m.self.Node)
	var mu sync.Mutex
	var ends sync.WaitGroup
	var left []cell.Session
	lost := map[string]int{}
	places := make(chan struct{}, configs.CellPool/2)
	for _, one := range c.left {
		own := one.Boot == c.m.self.Boot
		mu.Lock()
		handed := c.handed[ending{one.VIN, one.Epoch}]
		mu.Unlock()
		if own && !c.over(&one) || !own && boots[one.Boot] || time.Since(handed) < untold {
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
		c.log.Warn("a gateway is gone; its vehicles are reported as disconnected", slog.String("node", node), slog.Int("vehicles", n))
	}
	return nil
}

// over reports whether what Redis has as a session of this gateway is none, and nobody is about to tell so.
func (c *cellPresence) over(one *cell.Session) bool {
	of, conn := c.claims.of(one.VIN)
	c.mu.Lock()
	_, waiting := c.byVIN[one.VIN]
	c.mu.Unlock()
	if waiting || one.Ended != nil && time.Since(one.Ended.At) < untold {
		return false
	}
	if of == nil {
		return true
	}
	_, asking, _, ended := c.claims.state(of)
	return !asking && (conn.Epoch != one.Epoch || ended)
}

// untold is how long an end may be on its way to Kafka before it is told once more.
const untold = time.Minute

// end tells the end of a session. One that was numbered before, but that no gateway has any more, is told as it was numbered.
func (c *cellPresence) end(ctx context.Context, one *cell.Session, own bool) bool {
	if c.m.away.Load() || ctx.Err() != nil {
		return false
	}
	e := heard{kind: presence.Disconnected, at: time.Now(), reason: presence.GatewayLost}
	if own {
		e.reason = string(session.ReasonLost)
		if last, open := c.outbox.Last(one.VIN); one.Ended == nil && (!open || last.Kind == presence.Disconnected || last.As.Epoch != one.Epoch) {
			return c.remove(ctx, one, &e)
		}
	}
	return c.tell(one.VIN, one.Connection, &e)
}

// remove takes a session of this gateway out of Redis whose end it has told, or of which it has told nothing: a Redis that is as it was
// earlier has it again, or nobody heard the answer to its claim.
func (c *cellPresence) remove(ctx context.Context, one *cell.Session, e *heard) bool {
	_, _, err := c.m.store.Presence(ctx, one.VIN, one.Connection, e.kind.String(), e.reason, e.at)
	if err == nil {
		err = c.m.store.Told(ctx, one.VIN, one.Epoch)
	}
	return c.m.note(err) == nil
}
