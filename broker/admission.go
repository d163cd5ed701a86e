package broker

import (
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

func newAdmission() *admission {
	return &admission{addresses: make(map[netip.Addr]int), left: make(chan struct{}, 1)}
}

// admit takes a connection in, or names the limit that refuses it. release gives the address's place back;
// the zero address has none.
func (a *admission) admit(addr netip.Addr, limits *Limits, now time.Time) (refused string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if limits.ConnectRate > 0 {
		before := a.arrival
		if charge(&a.arrival, now.UnixNano(), nanosPer(int64(limits.ConnectRate))) > 0 {
			a.arrival = before
			return "connect_rate"
		}
	}
	return a.admitAddressLocked(addr, limits)
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
