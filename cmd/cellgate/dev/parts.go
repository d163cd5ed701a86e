package dev

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cellgate/cmd/cellgate/app"
)

// part is an embedded server. Its address stays the same over stops.
type part struct {
	name  string
	addr  string
	start func(addr string) (stop func() error, err error)
	stop  func() error // nil while stopped
}

// parts can be stopped and started while the gateway runs.
type parts struct {
	mu  sync.Mutex // guards below
	all []*part
}

// add starts a part and registers it for stopping.
func (p *parts) add(name, addr string, start func(addr string) (got string, stop func() error, err error)) (string, error) {
	n := &part{name: name, start: func(addr string) (func() error, error) {
		_, stop, err := start(addr)
		return stop, err
	}}
	var err error
	if n.addr, n.stop, err = start(addr); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, n)
	return n.addr, nil
}

// List implements app.Parts.
func (p *parts) List() []app.Part {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]app.Part, len(p.all))
	for i, n := range p.all {
		out[i] = app.Part{Name: n.name, Address: n.addr, Running: n.stop != nil}
	}
	return out
}

// Set implements app.Parts. Starting a running part, or stopping a stopped one, does nothing.
func (p *parts) Set(name string, running bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.all {
		if n.name != name || running == (n.stop != nil) {
			continue
		}
		if !running {
			stop := n.stop
			n.stop = nil
			return stop()
		}
		return n.begin()
	}
	return nil
}

// begin starts a part at its previous address, which may take a moment to become free.
func (n *part) begin() error {
	for tried := 0; ; tried++ {
		stop, err := n.start(n.addr)
		if err == nil {
			n.stop = stop
			return nil
		}
		if tried == 20 {
			return fmt.Errorf("embedded %s: %w", n.name, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// close stops the running parts in reverse order.
func (p *parts) close(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for i := len(p.all) - 1; i >= 0; i-- {
		if n := p.all[i]; n.stop != nil {
			errs = append(errs, n.stop())
			n.stop = nil
		}
	}
	return errors.Join(errs...)
}
