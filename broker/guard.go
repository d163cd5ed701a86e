package broker

import (
	"net"
	"sync"
	"time"
)

// Guard counts the sockets that ln accepts as being in the handshake until they are closed. It is for listeners of
// other protocols that vehicles reach: together they use no more descriptors than there are for clients.
func (b *Broker) Guard(ln net.Listener) net.Listener {
	return &guarded{Listener: ln, admission: b.admission, most: b.mostGuests, full: "handshakes", reject: b.reject}
}

// Bound limits the sockets that ln accepts to most, separately from all other listeners. At the limit, the oldest idle
// socket gives way, and reject is called with full. While all are busy or younger than evictAfter, new ones wait in the
// kernel's queue. If descriptors are lacking, the oldest gives way too, and reject is called with "descriptors".
func Bound(ln net.Listener, most int, full string, reject func(reason string)) net.Listener {
	return &guarded{Listener: ln, admission: newAdmission(nil), most: func() int { return most }, full: full, reject: reject}
}

type guarded struct {
	net.Listener
	admission *admission
	most      func() int
	full      string // the reason of an eviction at the limit
	reject    func(reason string)
}

// Accept implements net.Listener.
func (l *guarded) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err == nil {
			s := &Socket{Conn: nc, admission: l.admission}
			var gone *guest
			if s.guest, gone = l.admission.enter(nc, l.most()); gone != nil {
				l.reject(l.full)
				_ = gone.conn.Close()
			}
			return s, nil
		}
		if !yieldDescriptor(l.admission, err) {
			return nil, err
		}
		l.reject("descriptors")
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
