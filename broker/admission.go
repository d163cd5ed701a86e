package broker

import (
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"
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
	guests    int
	left      chan struct{} // signals that one has left
}

// guest is a connection that has not finished TLS and CONNECT.
type guest struct {
	conn       net.Conn
	since      time.Time
	prev, next *guest
	entered    bool
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

func newAdmission() *admission {
	return &admission{seed: maphash.MakeSeed(), addresses: make(map[netip.Addr]int), left: make(chan struct{}, 1)}
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
		wait := evictAfter - time.Since(a.oldest.since)
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
	g = &guest{conn: c, prev: a.newest, entered: true, since: time.Now()}
	if a.newest != nil {
		a.newest.next = g
	} else {
		a.oldest = g
	}
	a.newest = g
	a.guests++
	return g, evicted
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
	g.prev, g.next, g.entered = nil, nil, false
	a.guests--
	select {
	case a.left <- struct{}{}:
	default:
	}
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
