package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// stopRedis is how long a stopping gateway waits for an answer of a Redis server. It then asks that server no more.
const stopRedis = time.Second

// redisConns are the gateway's connections to Redis. The end of a context does not end a call of go-redis that waits for its
// answer: with a silent server, each part would stop only after redis.timeout. Once the gateway stops, deadlines are at most
// stopRedis away, and a server that has missed one counts as lost.
//
// When a connection to a server breaks, the older ones to it are not used again. What broke it, such as a restart of the server or of a
// load balancer before it, often breaks them too, unnoticed until they are used: each would fail a call after Redis is back.
type redisConns struct {
	stopping atomic.Bool

	mu    sync.Mutex
	open  map[*redisConn]struct{}
	lost  map[string]bool      // by address
	broke map[string]time.Time // by address; when the last connection broke that was not older than the one before
}

// redisConn is a connection of redisConns.
type redisConn struct {
	net.Conn
	of     *redisConns
	addr   string
	made   time.Time
	socket syscall.Conn // nil under TLS

	mu       sync.Mutex
	deadline time.Time // for reading; zero if what is read may take for ever, as notices do
	bounded  bool      // the deadline is that of the stop
}

// dialer returns a dialer for go-redis whose connections belong to c.
func (c *redisConns) dialer(timeout time.Duration, config *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if c.isLost(addr) {
			return nil, lostError(addr)
		}
		o := redis.Options{DialTimeout: timeout, TLSConfig: config}
		stopping := c.stopping.Load()
		if stopping {
			o.DialTimeout = min(timeout, stopRedis)
		}
		conn, err := redis.NewDialer(&o)(ctx, network, addr)
		if err != nil {
			if stopping {
				c.lose(addr)
			}
			return nil, err
		}
		r := &redisConn{Conn: conn, of: c, addr: addr, made: time.Now()}
		r.socket, _ = conn.(syscall.Conn)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.open == nil {
			c.open = map[*redisConn]struct{}{}
		}
		c.open[r] = struct{}{}
		return r, nil
	}
}

// stop bounds the calls that wait and those to come.
func (c *redisConns) stop() {
	c.stopping.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.open {
		_ = r.bound()
	}
}

func (c *redisConns) isLost(addr string) bool {
	if !c.stopping.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost[addr]
}

func (c *redisConns) lose(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = map[string]bool{}
	}
	c.lost[addr] = true
}

// broken records that a connection broke.
func (c *redisConns) broken(r *redisConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broke == nil {
		c.broke = map[string]time.Time{}
	}
	if !r.made.Before(c.broke[r.addr]) {
		c.broke[r.addr] = time.Now()
	}
}

// doubts reports whether a connection is older than the break of another one.
func (c *redisConns) doubts(r *redisConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.made.Before(c.broke[r.addr])
}

func lostError(addr string) error {
	return fmt.Errorf("the gateway stops, and Redis at %s did not answer for %s", addr, stopRedis)
}

// bound moves the deadline of a stopping gateway's connection closer, unless it is close enough.
func (r *redisConn) bound() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if latest := time.Now().Add(stopRedis); r.deadline.After(latest) {
		r.deadline, r.bounded = latest, true
		return r.Conn.SetReadDeadline(latest)
	}
	return nil
}

// SetReadDeadline implements net.Conn.
func (r *redisConn) SetReadDeadline(t time.Time) error {
	r.mu.Lock()
	r.deadline, r.bounded = t, false
	err := r.Conn.SetReadDeadline(t)
	r.mu.Unlock()
	if err == nil && r.of.stopping.Load() {
		return r.bound()
	}
	return err
}

// Read implements net.Conn.
func (r *redisConn) Read(b []byte) (int, error) {
	if r.of.isLost(r.addr) {
		return 0, lostError(r.addr)
	}
	n, err := r.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) && r.isBounded() {
		r.of.lose(r.addr)
	}
	return n, r.noted(err)
}

// Write implements net.Conn.
func (r *redisConn) Write(b []byte) (int, error) {
	n, err := r.Conn.Write(b)
	return n, r.noted(err)
}

func (r *redisConn) noted(err error) error {
	if brokeOff(err) {
		r.of.broken(r)
	}
	return err
}

// brokeOff reports whether the other side, or something in between, has ended a connection.
func brokeOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

var errDoubted = errors.New("older than the break of another connection to the server")

// SyscallConn implements syscall.Conn. Before go-redis uses a connection again it looks for its end in the socket.
func (r *redisConn) SyscallConn() (syscall.RawConn, error) {
	switch {
	case r.of.doubts(r):
		return nil, errDoubted
	case r.socket == nil:
		return unexamined{}, nil
	}
	return r.socket.SyscallConn()
}

// unexamined is a socket under TLS: what is in it is not an answer of Redis.
type unexamined struct{}

func (unexamined) Control(func(uintptr)) error    { return nil }
func (unexamined) Read(func(uintptr) bool) error  { return nil }
func (unexamined) Write(func(uintptr) bool) error { return nil }

func (r *redisConn) isBounded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bounded
}

// Close implements net.Conn.
func (r *redisConn) Close() error {
	r.of.mu.Lock()
	delete(r.of.open, r)
	r.of.mu.Unlock()
	return r.Conn.Close()
}
