package webhook

import (
	"net/netip"
	"testing"
)

// TestAddresses checks which addresses an endpoint may have.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"93.184.216.34:443": true, "[2606:2800:220:1:248:1893:25c8:1946]:443": true, "8.8.8.8:80": true,
		"127.0.0.1:80": false, "127.8.9.10:80": false, "[::1]:80": false, "0.0.0.0:80": false, "[::]:80": false,
		"10.0.0.1:443": false, "172.16.3.4:443": false, "192.168.1.1:443": false, "100.64.0.1:443": false,
		"169.254.169.254:80": false, "[fe80::1%eth0]:80": false, "[fd00::1]:443": false, "[fec0::1]:443": false,
		"[::ffff:127.0.0.1]:80": false, "[::ffff:10.0.0.1]:80": false, "[::7f00:1]:80": false,
		"[64:ff9b::7f00:1]:80": false, "[2002:7f00:1::]:80": false, "[2001:0:1::]:80": false, "[2001:db8::1]:80": false,
		"224.0.0.1:80": false, "[ff02::1]:80": false, "255.255.255.255:80": false, "240.0.0.1:80": false, "198.18.0.1:80": false,
		"not an address": false,
	} {
		if got := (&guard{}).check(address) == nil; got != want {
			t.Errorf("%s: reached %t", address, got)
		}
		if (&guard{plain: true}).check(address) == nil {
			t.Errorf("%s: reached by plain http", address)
		}
	}
	g := guard{plain: true, private: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")}}
	for address, want := range map[string]bool{"10.20.3.4:80": true, "[::ffff:10.20.3.4]:80": true, "10.21.0.1:80": false, "8.8.8.8:80": false} {
		if got := g.check(address) == nil; got != want {
			t.Errorf("%s: reached %t with 10.20.0.0/16", address, got)
		}
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	if got := printable("v1/A é\r\nx-evil: 1%"); got != "v1/A%20%C3%A9%0D%0Ax-evil:%201%25" {
		t.Error(got)
	}
}
