package broker

import (
	"net"
	"sync"
	"time"
)

// Guard makes the sockets that ln accepts count among those that are in the handshake, until they are closed. It is for
// listeners of other protocols that vehicles reach: all of them together take no more descriptors than there are for clients.
func (b *Broker) Guard(ln net.Listener) net.Listener {
	return &guarded{Listener: ln, admission: b.admission, most: b.mostGuests, evicted: func() { b.reject("handshakes") }}
}

// Bound keeps the sockets that ln accepts, most at once, apart from all others. When there are as many, the oldest that is not
// busy gives way; while all are busy, or younger than evictAfter, those that come wait in the kernel's queue.
func Bound(ln net.Listener, most int, evicted func()) net.Listener {
	return &guarded{Listener: ln, admission: newAdmission(nil), most: func() int { return most }, evicted: evicted}
}

// guarded is a listener whose sockets are guests of an admission.
type guarded struct {
	net.Listener
	admission *admission
	most      func() int
	evicted   func()
}

// Accept implements net.Listener.
func (l *guarded) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err == nil {
			s := &Socket{Conn: nc, admission: l.admission}
			var gone *guest
			if s.guest, gone = l.admission.enter(nc, l.most()); gone != nil {
				l.evicted()
				_ = gone.conn.Close()
			}
			return s, nil
		}
		if !yieldDescriptor(l.admission, err) {
			return nil, err
		}
		l.evicted()
		time.Sleep(minBackoff)
	}
}

// Socket is a connection that a guarded listener has accepted.
type Socket struct {
	net.Conn
	admission *admission
	guest     *guest
	once      sync.Once
}

// Begin says that somebody works for the client: until End, which comes once for each Begin, the socket does not give way
// to others.
func (s *Socket) Begin() { s.admission.begin(s.guest) }

// End undoes Begin.
func (s *Socket) End() { s.admission.end(s.guest) }

// Close implements net.Conn.
func (s *Socket) Close() error {
	s.once.Do(func() { s.admission.leave(s.guest) })
	return s.Conn.Close()
}
