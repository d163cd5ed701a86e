package broker

import (
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// admission decides before any byte is read: how many connections per second, how many per address, and how
// many that have not finished TLS and CONNECT.
type admission struct {
	mu        sync.Mutex
	arrival   int64 // of the token bucket, Unix ns
	recent    [recentSlots]recentArrivals
	seed      maphash.Seed
	addresses map[netip.Addr]int
	oldest    *guest
	newest    *guest
	guests    int              // with those that are busy
	count     prometheus.Gauge // of guests; may be nil
	left      chan struct{}    // signals that one has left
}

// guest is a connection that has not finished TLS and CONNECT.
type guest struct {
	conn       net.Conn
	since      time.Time
	prev, next *guest
	entered    bool
	busy       int // requests that are worked on; while there are any it is not in the list
}

// recentArrivals counts the connections of one second from the addresses that share a slot.
type recentArrivals struct {
	second int64
	n      int
}

const (
	// recentSlots is how many are told apart; the counts need not be exact.
	recentSlots = 1024
	// heavyShare is the part of the rate above which an address is a heavy one.
	heavyShare = 4
)

func newAdmission(count prometheus.Gauge) *admission {
	return &admission{seed: maphash.MakeSeed(), addresses: make(map[netip.Addr]int), left: make(chan struct{}, 1), count: count}
}

// admit takes a connection in, or names the limit that refuses it. release gives the address's place back;
// the zero address has none.
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
// address leaves half the bucket to the others, so that a flood from one place does not shut out everybody else.
// IPv6 addresses count by their /64.
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
			next.n = share // heavy a second ago, heavy now
		}
		*r = next
	}
	r.n++
	return r.n > share
}

// admitAddress is the rest of admit for a connection that was admitted by its load balancer's address.
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

// evictAfter is how long a connection has at least for TLS and CONNECT, however many others there are.
const evictAfter = 500 * time.Millisecond

// enter lets a connection into the handshake. When there are too many it waits for one of them to leave; one
// that has been there for evictAfter is taken out and returned, to be closed: it is the likeliest never to
// finish. So a storm of honest clients waits in the kernel's queue for its turn, and silent sockets make room.
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

// linkLocked puts a guest after all others.
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

// begin takes a guest that is worked for out of those that may have to give way.
func (a *admission) begin(g *guest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g.busy++; g.busy == 1 && g.entered {
		a.unlinkLocked(g)
	}
}

// end undoes begin: the guest is the newest of them.
func (a *admission) end(g *guest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g.busy--; g.busy == 0 && g.entered {
		g.since = time.Now()
		a.linkLocked(g)
		a.signalLocked()
	}
}

// signalLocked wakes whoever waits for a guest to leave.
func (a *admission) signalLocked() {
	select {
	case a.left <- struct{}{}:
	default:
	}
}

// evictOldest takes out the connection that has been in the handshake longest, to be closed; nil when there is none.
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

// all gives every connection in the handshake.
func (a *admission) all() (conns []net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for g := a.oldest; g != nil; g = g.next {
		conns = append(conns, g.conn)
	}
	return conns
}
