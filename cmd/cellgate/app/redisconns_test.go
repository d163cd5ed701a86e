package app

import (
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestOldConnectionsAfterABreak: when the first of a pool's connections turns out to be broken, the others fail no call.
func TestOldConnectionsAfterABreak(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteCertificates(t, dir)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
	check.OK(t, err)
	for name, config := range map[string]*tls.Config{"plain": nil, "TLS": {InsecureSkipVerify: true}} { //nolint:gosec // a test's
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := miniredis.NewMiniRedis()
			if config == nil {
				check.OK(t, server.Start())
			} else {
				check.OK(t, server.StartTLS(&tls.Config{Certificates: []tls.Certificate{pair}})) //nolint:gosec // a test's
			}
			t.Cleanup(server.Close)
			way := startForgetful(t, server.Addr())
			const pooled = 8
			client := redis.NewClient(&redis.Options{
				Addr: way.addr(), Dialer: new(redisConns).dialer(check.Patience, config),
				PoolSize: pooled, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
			})
			defer func() { _ = client.Close() }()
			var held []*redis.Conn
			for range pooled {
				one := client.Conn()
				check.OK(t, one.Ping(t.Context()).Err())
				held = append(held, one)
			}
			for _, one := range held {
				check.OK(t, one.Close())
			}
			way.forget()
			failed := 0
			for range 2 * pooled {
				if client.Ping(t.Context()).Err() != nil {
					failed++
				}
			}
			if failed != 1 {
				t.Errorf("%d calls failed; the first one could not know that its connection is broken", failed)
			}
		})
	}
}

// forgetful passes connections on. Those from before forget look open, and break when they are used: like a load balancer that
// has been restarted.
type forgetful struct {
	net.Listener
	to    string
	round atomic.Int64
	wg    sync.WaitGroup
}

func startForgetful(t *testing.T, to string) *forgetful {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	f := &forgetful{Listener: l, to: to}
	f.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() { f.pass(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		f.wg.Wait()
	})
	return f
}

func (f *forgetful) addr() string { return f.Addr().String() }

func (f *forgetful) forget() { f.round.Add(1) }

func (f *forgetful) pass(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	round := f.round.Load()
	server, err := net.DialTimeout("tcp", f.to, time.Second)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	f.wg.Go(func() {
		_, _ = io.Copy(conn, server)
		_ = conn.Close()
	})
	for buffer := make([]byte, 4096); ; {
		n, err := conn.Read(buffer)
		if err != nil || f.round.Load() != round {
			return
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}
