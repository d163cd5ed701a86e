package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// errAddress is wrapped by the error of a connection refused because of its address.
var errAddress = errors.New("the address is not a public one")

// guard refuses connections to addresses that are not public, unless the endpoint may reach their network. It checks
// the address being connected to, after the DNS lookup, so that a later lookup cannot bypass it.
type guard struct {
	private []netip.Prefix
	plain   bool // the URL is http: only the private networks, never the Internet
}

// dialer returns a dialer with the guard.
func (g *guard) dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: timeout, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		return g.check(address)
	}}
}

func (g *guard) check(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q", errAddress, address)
	}
	ip := at.Addr().Unmap().WithZone("")
	if slices.ContainsFunc(g.private, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return nil
	}
	switch {
	case g.plain:
		return fmt.Errorf("%w: %v: plain http is for the networks of private_networks only", errAddress, ip)
	case !public(ip):
		return fmt.Errorf("%w: %v; private_networks may allow it", errAddress, ip)
	}
	return nil
}

// public reports whether an address belongs to the Internet. Addresses that embed others (NAT64, 6to4, Teredo) could
// lead anywhere and are not public.
func public(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// reserved are the unicast networks of IANA's special-purpose registries that are not part of the Internet.
var reserved = prefixes("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "240.0.0.0/4", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	"5f00::/16", "fec0::/10")

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}
