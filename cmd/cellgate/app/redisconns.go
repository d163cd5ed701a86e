package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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
type redisConns struct {
	stopping atomic.Bool

	mu   sync.Mutex
	open map[*redisConn]struct{}
	lost map[string]bool // by address
}

// redisConn is a connection of redisConns.
type redisConn struct {
	net.Conn
	of   *redisConns
	addr string

	mu       sync.Mutex
	deadline time.Time // for reading; zero if what is read may take for ever, as notices do
	bounded  bool      // the deadline is that of the stop
}

// plainConn is a redisConn whose socket go-redis may examine before it uses it again. It must not do that under TLS.
type plainConn struct {
	*redisConn
	syscall.Conn
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
		r := &redisConn{Conn: conn, of: c, addr: addr}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.open == nil {
			c.open = map[*redisConn]struct{}{}
		}
		c.open[r] = struct{}{}
		if socket, ok := conn.(syscall.Conn); ok {
			return plainConn{r, socket}, nil
		}
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
	return n, err
}

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
