package app

import (
	"context"
	"sync"
	"time"

	"cellgate/broker/cell"
	"cellgate/configs"
)

// storing is a session that is to be stored in the cell.
type storing struct {
	waiters []func()
}

// Changed implements session.Cell.
func (c *claims) Changed(vin string) {
	c.mu.Lock()
	if c.dirty[vin] == nil {
		c.dirty[vin] = &storing{}
	}
	c.mu.Unlock()
	c.wakeStores()
}

// Stored implements session.Cell. It waits no longer than a CONNECT does.
func (c *claims) Stored(vin string, fn func()) {
	if c.m.isAwayFor(vin) {
		fn()
		return
	}
	var once sync.Once
	run := func() { once.Do(fn) }
	time.AfterFunc(time.Duration(c.wait.Load()), run)
	c.mu.Lock()
	s := c.dirty[vin]
	if s == nil {
		s = &storing{}
		c.dirty[vin] = s
	}
	s.waiters = append(s.waiters, run)
	c.mu.Unlock()
	c.wakeStores()
}

func (c *claims) wakeStores() {
	select {
	case c.stores <- struct{}{}:
	default:
	}
}

// storeAll stores sessions until ctx ends. While Redis is away one entry per vehicle waits.
func (c *claims) storeAll(ctx context.Context) {
	places := make(chan struct{}, configs.CellConcurrent)
	var all sync.WaitGroup
	defer all.Wait()
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	store := func() {
		for vin, s := range c.takeDirty() {
			places <- struct{}{}
			all.Go(func() {
				defer func() { <-places }()
				c.storeOne(context.WithoutCancel(ctx), vin, s)
				c.storedOne(vin)
			})
		}
	}
	for {
		select {
		case <-ctx.Done(): // what the last connections changed
			store()
			all.Wait()
			store()
			return
		case <-c.stores:
		case <-retry.C:
		}
		store()
	}
}

// takeDirty returns the sessions to store. It leaves out those that are being stored: the two writes could arrive in
// the wrong order, and the cell would keep the older one.
func (c *claims) takeDirty() map[string]*storing {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]*storing, len(c.dirty))
	for vin, s := range c.dirty {
		if _, busy := c.underWay[vin]; !busy && !c.m.isAwayFor(vin) {
			all[vin], c.underWay[vin] = s, struct{}{}
			delete(c.dirty, vin)
		}
	}
	return all
}

func (c *claims) storedOne(vin string) {
	c.mu.Lock()
	delete(c.underWay, vin)
	again := c.dirty[vin] != nil
	c.mu.Unlock()
	if again {
		c.wakeStores()
	}
}

// storeOne stores a vehicle's session if the cell says that the vehicle is here. A session that cannot be stored stays
// dirty.
func (c *claims) storeOne(ctx context.Context, vin string, s *storing) {
	defer func() {
		for _, fn := range s.waiters {
			fn()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, c.m.limit())
	defer cancel()
	data, needs, has := c.sessions.Portable(vin)
	sum := c.hash(data)
	c.mu.Lock()
	one := c.byVIN[vin]
	if one != nil && (one.lost || one.conn.Epoch != 0 && one.stored == sum) {
		if !has && one.ended && !one.lost {
			c.removeLocked(one)
		}
		c.mu.Unlock()
		return
	}
	var conn cell.Connection
	if one != nil {
		conn = one.conn
	}
	c.mu.Unlock()
	if one == nil {
		if has || !c.ours(ctx, vin, &conn) {
			return // of an earlier run: it is stored with the next connection
		}
	}
	if conn.Epoch == 0 || c.durable(ctx, needs) != nil {
		c.stayDirty(vin)
		return
	}
	verdict, err := c.m.store.StoreSession(ctx, vin, conn, data)
	switch {
	case err != nil:
		c.stayDirty(vin)
	case one == nil:
	case verdict == cell.NotOwner:
		c.check(ctx, one)
	default:
		c.mu.Lock()
		if one.stored = sum; !has && one.ended {
			c.removeLocked(one)
		}
		c.mu.Unlock()
	}
}

// ours reports whether the last claim of a vehicle is one of an earlier run of this gateway.
func (c *claims) ours(ctx context.Context, vin string, conn *cell.Connection) bool {
	v, verdict, err := c.m.store.Vehicle(ctx, vin)
	if err != nil || verdict != cell.OK || v.Session == nil {
		return false
	}
	*conn = v.Owner
	return v.Owner.Node == c.m.self.Node
}

func (c *claims) stayDirty(vin string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dirty[vin] == nil {
		c.dirty[vin] = &storing{}
	}
}

// check claims again what a script did not find. A claim whose connection has ended is dropped.
func (c *claims) check(ctx context.Context, one *claim) {
	_, _, _, ended := c.state(one)
	if ended {
		c.lose(one)
		return
	}
	c.ask(ctx, one)
}
