package app

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/shared/remote"
	"cellgate/configs"
)

// run claims what could not be claimed at CONNECT. It also compares all claims with Redis: periodically, when Redis was
// away or is another server, when notices may have been lost, and after a pause of the process long enough for others
// to take its vehicles.
func (c *claims) run(ctx context.Context) {
	const tick = 250 * time.Millisecond
	last, swept, due := time.Now(), time.Now(), true
	var returned int64
	wills := c.sessions.RestoredWills()
	for remote.Pause(ctx, tick) {
		now := time.Now()
		if now.Sub(last) > configs.CellPause {
			c.current.Store(false)
			c.log.Warn("the process was suspended; claims are checked before commands are sent", slog.Duration("for", now.Sub(last).Round(time.Millisecond)))
		}
		last = now
		if c.m.allAway() {
			continue
		}
		back := c.m.returned.Load()
		if c.doubted.Swap(false) || back != returned || !c.current.Load() || now.Sub(swept) > configs.CellSweep {
			due, returned = true, back
		}
		if due {
			if wills, due = c.compareAll(ctx, wills); due {
				continue
			}
			c.current.Store(true)
			swept = time.Now()
			last = swept
		}
		c.askAll(ctx, c.unclaimed())
	}
}

// compareAll compares the claims with Redis and drops the sessions that have moved. It returns those that it could not look for, and whether
// it has to be repeated.
func (c *claims) compareAll(ctx context.Context, wills []string) (left []string, again bool) {
	// Others must not take this gateway for dead. They do not while the server with the list of gateways is away.
	if err := c.live.beat(ctx, configs.CellTimeout); err != nil && !c.m.isAway(c.m.store.GatewaysSlot()) {
		return wills, true
	}
	if c.compare(ctx) != nil {
		return wills, true
	}
	if c.m.anyAway() {
		return wills, false
	}
	if c.dropMoved(ctx, wills) != nil {
		return wills, true
	}
	return nil, false
}

// unclaimed returns the connections that the cell does not know and can be told of.
func (c *claims) unclaimed() []*claim {
	return c.filter(func(one *claim) bool {
		return one.conn.Epoch == 0 && !one.asking && one.attached && !c.m.isAwayFor(one.vin)
	})
}

// filter returns the claims of live connections that match.
func (c *claims) filter(match func(*claim) bool) []*claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	var some []*claim
	for _, one := range c.byVIN {
		if !one.ended && !one.lost && match(one) {
			some = append(some, one)
		}
	}
	return some
}

// askAll runs the script for several claims, some at a time.
func (c *claims) askAll(ctx context.Context, some []*claim) {
	var all sync.WaitGroup
	defer all.Wait()
	places := make(chan struct{}, configs.CellConcurrent)
	for _, one := range some {
		if ctx.Err() != nil {
			return
		}
		if c.m.isAwayFor(one.vin) {
			continue
		}
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			c.ask(ctx, one)
		})
	}
}

// compared is how many claims are read at a time.
const compared = 500

// compare reads the claims from Redis, except those at servers that are away. It claims again where Redis differs, and the younger connection wins. A
// connection whose end was published because this gateway was taken for dead is renewed first.
func (c *claims) compare(ctx context.Context) error {
	claims := c.filter(func(one *claim) bool { return one.conn.Epoch != 0 && !c.m.isAwayFor(one.vin) })
	for some := range slices.Chunk(claims, compared) {
		vins := make([]string, len(some))
		for i, one := range some {
			vins[i] = one.vin
		}
		limit, cancel := context.WithTimeout(ctx, configs.CellTimeout)
		held, err := c.m.store.Held(limit, vins)
		cancel()
		if err != nil {
			return err
		}
		var differ []*claim
		for i, one := range some {
			conn, asking, lost, ended := c.state(one)
			if asking || lost || ended {
				continue
			}
			if held[i].Ended && held[i].Epoch == conn.Epoch {
				c.renew(one)
			} else if same(held[i].Connection, conn) {
				continue
			}
			c.mu.Lock()
			one.forgot = held[i].Epoch < conn.Epoch
			c.mu.Unlock()
			differ = append(differ, one)
		}
		c.askAll(ctx, differ)
	}
	return nil
}

// dropMoved drops the sessions from before the start, and so their wills, of those vehicles that another gateway has had
// since.
func (c *claims) dropMoved(ctx context.Context, vins []string) error {
	for some := range slices.Chunk(vins, compared) {
		limit, cancel := context.WithTimeout(ctx, configs.CellTimeout)
		held, err := c.m.store.Held(limit, some)
		cancel()
		if err != nil {
			return err
		}
		for i, vin := range some {
			if node := held[i].Node; node != "" && node != c.m.self.Node {
				c.sessions.Moved(vin, 0)
			}
		}
	}
	return nil
}

// same reports whether a and b are one connection. Since is not compared: it follows from the other fields.
func same(a, b cell.Connection) bool {
	return a.Node == b.Node && a.Boot == b.Boot && a.Number == b.Number && a.Epoch == b.Epoch
}

// renew makes a connection a new one for the cell.
func (c *claims) renew(one *claim) {
	n := c.number.Add(1)
	c.mu.Lock()
	one.conn.Number = n
	c.mu.Unlock()
}
