package preflight

import (
	"fmt"
	"net"
	"strings"
	"time"

	"cellgate/broker/shared/stable"
	"cellgate/configs"
)

// expiresSoon is how long before its end a certificate is reported.
const expiresSoon = 14 * 24 * time.Hour

func (c *checks) certificates() {
	for i := range c.cfg.Listeners {
		if l := &c.cfg.Listeners[i]; l.TLS != nil {
			c.server("listeners: "+l.Name, l.Address, l.TLS)
		}
	}
	if c.cfg.HTTP.TLS != nil {
		c.server("http", c.cfg.HTTP.Address, c.cfg.HTTP.TLS)
	}
	if t := c.cfg.TokenAPI; t != nil && t.TLS != nil {
		c.server("token_api", t.Address, t.TLS)
	}
}

// server checks the certificate of a listener.
func (c *checks) server(where, address string, files *configs.ServerTLS) {
	where += ".tls"
	pair, err := stable.KeyPair(string(files.Cert), string(files.Key))
	if err != nil {
		c.bad("certificate", where+".cert", fmt.Sprintf("%s and %s: %v", files.Cert, files.Key, err), "name a certificate and the key that belongs to it, both PEM, readable by the gateway's user")
		return
	}
	leaf := pair.Leaf
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	host, _, _ := net.SplitHostPort(address) //nolint:errcheck // the configuration has been checked
	ip := net.ParseIP(host)
	named := host != "" && (ip == nil || !ip.IsUnspecified())
	switch {
	case c.now.Before(leaf.NotBefore):
		c.bad("certificate", where+".cert", fmt.Sprintf("%s is valid from %s on", files.Cert, day(leaf.NotBefore)), "wait, or set this machine's clock")
	case c.now.After(leaf.NotAfter):
		c.bad("certificate", where+".cert", fmt.Sprintf("%s has expired on %s", files.Cert, day(leaf.NotAfter)), "replace it; a running gateway loads it at SIGHUP")
	case leaf.NotAfter.Sub(c.now) < expiresSoon:
		c.warn("certificate", where+".cert", fmt.Sprintf("%s expires on %s", files.Cert, day(leaf.NotAfter)), "replace it; a running gateway loads it at SIGHUP")
	case len(names) == 0:
		c.bad("certificate", where+".cert", fmt.Sprintf("%s has no names (subjectAltName): no client accepts it", files.Cert), "issue one with the name that vehicles connect to")
	case named && leaf.VerifyHostname(host) != nil:
		c.warn("certificate", where+".cert", fmt.Sprintf("%s is for %s, not for %s", files.Cert, strings.Join(names, ", "), host), "issue one with the name that clients connect to")
	default:
		c.good("certificate", where+".cert", "for %s until %s", strings.Join(names, ", "), day(leaf.NotAfter))
	}
	if files.ClientCA != "" && files.ClientAuth != "none" {
		c.authority(where+".client_ca", string(files.ClientCA))
	}
}

// authority checks a file of certificate authorities.
func (c *checks) authority(where, file string) {
	if _, err := stable.CertPool(file); err != nil {
		c.bad("certificate", where, err.Error(), "name a PEM file with the authorities of the clients")
		return
	}
	c.good("certificate", where, "%s", file)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
