package app

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"cellgate/broker/shared/metric"
	"cellgate/broker/shared/remote"
	"cellgate/broker/shared/stable"
	"cellgate/configs"
)

// lookAtCertificates is how often the dates of the certificates in force are checked for the log.
const lookAtCertificates = time.Minute

// serverCertificate is the certificate of a listener, as last read.
type serverCertificate struct {
	listener string
	file     string
	leaf     *x509.Certificate
}

// invalid returns why clients refuse the certificate at a time; "" if its dates are right.
func (c *serverCertificate) invalid(now time.Time) string {
	switch {
	case now.Before(c.leaf.NotBefore):
		return fmt.Sprintf("the certificate of %s, %s, is valid from %s on", c.listener, c.file, c.leaf.NotBefore.UTC().Format(time.RFC3339))
	case now.After(c.leaf.NotAfter):
		return fmt.Sprintf("the certificate of %s, %s, has expired on %s", c.listener, c.file, c.leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return ""
}

// readCertificates reads the certificates of all listeners.
func readCertificates(c *configs.Config) (all []serverCertificate, err error) {
	read := func(listener string, t *configs.ServerTLS) {
		if t == nil || err != nil {
			return
		}
		pair, failed := stable.KeyPair(string(t.Cert), string(t.Key))
		if failed != nil {
			err = fmt.Errorf("%s.tls: %w", listener, failed)
			return
		}
		all = append(all, serverCertificate{listener, string(t.Cert), pair.Leaf})
	}
	for i := range c.Listeners {
		read(c.Listeners[i].Name, c.Listeners[i].TLS)
	}
	read("http", c.HTTP.TLS)
	if c.TokenAPI != nil {
		read("token_api", c.TokenAPI.TLS)
	}
	return all, err
}

// certificates watches the dates of the certificates in force.
type certificates struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	held   []serverCertificate // in force
	next   []serverCertificate // as last checked
	since  time.Time           // since when one is known to be invalid
	logged string              // last
}

func openCertificates(c *configs.Config, now func() time.Time, log *slog.Logger) (*certificates, error) {
	held, err := readCertificates(c)
	if err != nil {
		return nil, err
	}
	w := &certificates{log: log, now: now, held: held}
	w.look()
	return w, nil
}

// check reads the certificates of a new configuration. One that clients would refuse is an error, unless it is in force
// already: a reload of something else must not fail because time has passed.
func (w *certificates) check(c *configs.Config) error {
	next, err := readCertificates(c)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for i := range next {
		if why := next[i].invalid(w.now()); why != "" && !w.heldLocked(&next[i]) {
			errs = append(errs, errors.New(why+": the previous one stays in force; replace it with a valid one, or set this machine's clock"))
		}
	}
	w.next = next
	return errors.Join(errs...)
}

func (w *certificates) heldLocked(c *serverCertificate) bool {
	for i := range w.held {
		if w.held[i].listener == c.listener && bytes.Equal(w.held[i].leaf.Raw, c.leaf.Raw) {
			return true
		}
	}
	return false
}

// adopt declares that what was checked is in force.
func (w *certificates) adopt() {
	w.mu.Lock()
	w.held = w.next
	w.mu.Unlock()
	w.look()
}

// run looks at the dates until ctx ends.
func (w *certificates) run(ctx context.Context) {
	for remote.Pause(ctx, lookAtCertificates) {
		w.look()
	}
}

// look logs a change of what is invalid.
func (w *certificates) look() {
	why := w.invalid()
	w.mu.Lock()
	changed := why != w.logged
	w.logged = why
	if changed {
		w.since = w.now().UTC()
	}
	w.mu.Unlock()
	if changed && why != "" {
		w.log.Error("clients that check certificates cannot connect", slog.String("why", why))
	}
}

// invalid returns why certificates in force are not valid; "" if they are.
func (w *certificates) invalid() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for i := range w.held {
		if why := w.held[i].invalid(w.now()); why != "" {
			all = append(all, why)
		}
	}
	return strings.Join(all, "; ")
}

// dependency reports certificates in force that clients refuse.
func (w *certificates) dependency() (remote.Health, bool) {
	w.look()
	why := w.invalid()
	if why == "" {
		return remote.Health{}, false
	}
	w.mu.Lock()
	since := w.since
	w.mu.Unlock()
	return remote.Health{
		Name: "certificates", Since: since,
		Reason: why + ": clients that check it cannot connect; replace it with a valid one and reload, or set this machine's clock",
	}, true
}

func (w *certificates) readings() *metric.Readings {
	r := &metric.Readings{}
	until := r.Add("tls_certificate_not_after_seconds", "Expiry of the server certificate in seconds since the Unix epoch.", "listener")
	r.Read = func(to metric.Sample) {
		w.mu.Lock()
		defer w.mu.Unlock()
		shown := make(map[string]bool) // an MQTT listener may be named http
		for i := range w.held {
			if one := &w.held[i]; !shown[one.listener] {
				shown[one.listener] = true
				to.Gauge(until, float64(one.leaf.NotAfter.Unix()), one.listener)
			}
		}
	}
	return r
}
