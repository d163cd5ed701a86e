package broker

import (
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// admission enforces the limits that apply before any byte is read: connections per second, connections per address,
// and connections that have not finished TLS and CONNECT.
type admission struct {
	mu        sync.Mutex
	arrival   int64 // token bucket, Unix ns
	recent    [recentSlots]recentArrivals
	seed      maphash.Seed
	addresses map[netip.Addr]int
	oldest    *guest
	newest    *guest
	guests    int              // including busy ones
	count     prometheus.Gauge // number of guests; may be nil
	left      chan struct{}    // signals that a guest has left
}

// guest is a connection that has not finished TLS and CONNECT.
type guest struct {
	conn       net.Conn
	since      time.Time
	prev, next *guest
	entered    bool
	busy       int // requests in progress; a busy guest is not in the list
}

// recentArrivals counts the connections of one second from all addresses that share a slot.
type recentArrivals struct {
	second int64
	n      int
}

const (
	// recentSlots is the number of slots. Addresses can share one: the counts need not be exact.
	recentSlots = 1024
	// heavyShare defines heavy addresses: they take more than 1/heavyShare of the rate.
	heavyShare = 4
)

func newAdmission(count prometheus.Gauge) *admission {
	return &admission{seed: maphash.MakeSeed(), addresses: make(map[netip.Addr]int), left: make(chan struct{}, 1), count: count}
}

// admit admits a connection, or returns the limit that refuses it. release releases the address's place. The zero
// address is not counted.
func (a *admission) admit(addr netip.Addr, limits *Limits, now time.Time) (refused string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if limits.ConnectRate > 0 {
		before, spare := a.arrival, time.Duration(0)
		if a.heavyLocked(addr, limits.ConnectRate, now) {
			spare = time.Second / 2
		}
		over := charge(&a.arrival, now.UnixNano(), nanosPer(int64(limits.ConnectRate))) > 0
		if over || time.Duration(a.arrival-now.UnixNano()) > time.Second-spare {
			a.arrival = before
			return "connect_rate"
		}
	}
	return a.admitAddressLocked(addr, limits)
}

// heavyLocked counts an arrival and reports whether its address alone takes more than its share of the rate. Such an
// address must leave half the bucket to others, so that a flood from one address does not shut out everybody. IPv6
// addresses count by their /64.
func (a *admission) heavyLocked(addr netip.Addr, rate int, now time.Time) bool {
	if !addr.IsValid() {
		return false
	}
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	r, share := &a.recent[maphash.Comparable(a.seed, addr)%recentSlots], max(1, rate/heavyShare)
	if second := now.Unix(); r.second != second {
		next := recentArrivals{second: second}
		if r.n > share && r.second == second-1 {
			next.n = share // an address that was heavy in the last second stays heavy
		}
		*r = next
	}
	r.n++
	return r.n > share
}

// admitAddress checks the per-address limit for a client that a load balancer forwards. admit has checked the rate.
func (a *admission) admitAddress(addr netip.Addr, limits *Limits) (refused string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.admitAddressLocked(addr, limits)
}

func (a *admission) admitAddressLocked(addr netip.Addr, limits *Limits) (refused string) {
	if !addr.IsValid() {
		return ""
	}
	if limits.ConnectionsPerAddress > 0 && a.addresses[addr] >= limits.ConnectionsPerAddress {
		return "connections_per_address"
	}
	a.addresses[addr]++
	return ""
}

func (a *admission) release(addr netip.Addr) {
	if !addr.IsValid() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addresses[addr]--; a.addresses[addr] <= 0 {
		delete(a.addresses, addr)
	}
}

// evictAfter is the minimum time that a connection has for TLS and CONNECT, whatever the load.
const evictAfter = 500 * time.Millisecond

// enter lets a connection into the handshake. At the limit it waits for a guest to leave. A guest older than evictAfter
// is removed and returned; the caller closes it, because it is the least likely to finish. Honest clients of a storm
// thus queue in the kernel, and silent sockets are evicted.
func (a *admission) enter(c net.Conn, limit int) (g, evicted *guest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.guests >= limit {
		wait := evictAfter
		if a.oldest != nil {
			wait -= time.Since(a.oldest.since)
		}
		if wait <= 0 {
			evicted = a.oldest
			a.leaveLocked(evicted)
			break
		}
		a.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-a.left:
		case <-t.C:
		}
		t.Stop()
		a.mu.Lock()
	}
	g = &guest{conn: c, entered: true, since: time.Now()}
	a.linkLocked(g)
	a.guests++
	if a.count != nil {
		a.count.Inc()
	}
	return g, evicted
}

func (a *admission) linkLocked(g *guest) {
	if g.prev = a.newest; a.newest != nil {
		a.newest.next = g
	} else {
		a.oldest = g
	}
	a.newest = g
}

func (a *admission) unlinkLocked(g *guest) {
	if g.prev != nil {
		g.prev.next = g.next
	} else {
		a.oldest = g.next
	}
	if g.next != nil {
		g.next.prev = g.prev
	} else {
		a.newest = g.prev
	}
	g.prev, g.next = nil, nil
}

// begin marks a guest as busy: it cannot be evicted.
func (a *admission) begin(g *guest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g.busy++; g.busy == 1 && g.entered {
		a.unlinkLocked(g)
	}
}

// end undoes begin: an idle guest returns to the list as the newest.
func (a *admission) end(g *guest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g.busy--; g.busy == 0 && g.entered {
		g.since = time.Now()
		a.linkLocked(g)
		a.signalLocked()
	}
}

// signalLocked wakes enter, which waits for a guest to leave.
func (a *admission) signalLocked() {
	select {
	case a.left <- struct{}{}:
	default:
	}
}

// evictOldest removes and returns the guest that has been in the handshake longest, nil if there is none. The caller
// closes it.
func (a *admission) evictOldest() *guest {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.oldest
	a.leaveLocked(g)
	return g
}

func (a *admission) leave(g *guest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaveLocked(g)
}

func (a *admission) leaveLocked(g *guest) {
	if g == nil || !g.entered {
		return
	}
	if g.busy == 0 {
		a.unlinkLocked(g)
	}
	g.entered = false
	a.guests--
	if a.count != nil {
		a.count.Dec()
	}
	a.signalLocked()
}

// all returns the connections of all guests that are not busy.
func (a *admission) all() (conns []net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for g := a.oldest; g != nil; g = g.next {
		conns = append(conns, g.conn)
	}
	return conns
}
