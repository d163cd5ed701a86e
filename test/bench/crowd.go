package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"cellgate/test/mqtt"
)

// Crowd is a set of clients that connect, a bounded number at a time, and stay.
type Crowd struct {
	Load
	First, Count int // VIN(First) and those after it
	AtOnce       int
	// Configs are the clients' own TLS configurations, with their session tickets; Load.TLS for all when nil.
	Configs []*tls.Config
}

// Connect connects all of them. It returns the connections in order, and the time until the last CONNACK. After an
// error none is left open.
func (c Crowd) Connect(ctx context.Context) (conns []net.Conn, took time.Duration, err error) {
	conns = make([]net.Conn, c.Count)
	errs := make([]error, c.AtOnce)
	begin := time.Now()
	var all sync.WaitGroup
	for worker := range c.AtOnce {
		all.Go(func() {
			for i := worker; i < c.Count && errs[worker] == nil; i += c.AtOnce {
				l := c.Load
				if c.Configs != nil {
					l.TLS = c.Configs[i]
				}
				conns[i], errs[worker] = l.connect(ctx, VIN(c.First+i))
			}
		})
	}
	all.Wait()
	took = time.Since(begin)
	if err = errors.Join(errs...); err != nil {
		hangUp(conns)
		return nil, 0, err
	}
	return conns, took, nil
}

// hangUp resets the connections.
func hangUp(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			mqtt.HangUp(c)
		}
	}
}
