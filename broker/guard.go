package broker

import (
	"net"
	"sync"
	"time"
)

// Guard counts the sockets that ln accepts as being in the handshake until they are closed. It is for listeners of
// other protocols that vehicles reach: together they use no more descriptors than there are for clients.
func (b *Broker) Guard(ln net.Listener) net.Listener {
	return &guarded{Listener: ln, admission: b.admission, most: b.mostGuests, evicted: func() { b.reject("handshakes") }}
}

// Bound limits the sockets that ln accepts to most, separately from all other listeners. At the limit, the oldest idle
// socket gives way. While all are busy or younger than evictAfter, new ones wait in the kernel's queue.
func Bound(ln net.Listener, most int, evicted func()) net.Listener {
	return &guarded{Listener: ln, admission: newAdmission(nil), most: func() int { return most }, evicted: evicted}
}

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

// Begin marks the socket as busy: it is not evicted until End, which must follow each Begin.
func (s *Socket) Begin() { s.admission.begin(s.guest) }

// End undoes Begin.
func (s *Socket) End() { s.admission.end(s.guest) }

// Close implements net.Conn.
func (s *Socket) Close() error {
	s.once.Do(func() { s.admission.leave(s.guest) })
	return s.Conn.Close()
}
