package harness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"cellgate/test/check"
)

// Link is a TCP path to one server that a test can cut, slow down or black-hole. It is up from its making
// until the test ends, whether or not the server is.
type Link struct {
	Addr string // where clients connect

	t     testing.TB
	proxy *toxiproxy.Proxy
}

// NewLink makes a link to the server at upstream.
func NewLink(t testing.TB, name, upstream string) *Link {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled) // its toxics do not ask the logger that they could be given
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &Link{Addr: FreeAddr(t), t: t}
	l.proxy = toxiproxy.NewProxy(server, name, l.Addr, upstream)
	if err := l.proxy.Start(); err != nil {
		t.Fatalf("link to %s: %v", name, err)
	}
	t.Cleanup(func() {
		l.Heal()
		l.proxy.Stop()
	})
	return l
}

// Toxic is one ill of a link, in toxiproxy's terms.
type Toxic struct {
	Type string `json:"type"` // latency, bandwidth, timeout, limit_data, reset_peer, slicer
	// Stream is upstream, what clients send (the default), or downstream.
	Stream     string           `json:"stream"`
	Attributes map[string]int64 `json:"attributes"`
}

// Afflict adds the toxics to what passes from now on, on connections that exist too.
func (l *Link) Afflict(toxics ...Toxic) {
	l.t.Helper()
	for _, x := range toxics {
		x.Stream = cmp.Or(x.Stream, "upstream")
		b, err := json.Marshal(x)
		check.OK(l.t, err)
		if _, err := l.proxy.Toxics.AddToxicJson(bytes.NewReader(b)); err != nil {
			l.t.Fatalf("%s on the link at %s: %v", x.Type, l.Addr, err)
		}
	}
}

// Heal takes all toxics off.
func (l *Link) Heal() { l.proxy.Toxics.ResetToxics(context.Background()) }

// Cut closes all connections of the link at once, and takes no new ones until Mend.
func (l *Link) Cut() { l.proxy.Stop() }

// Mend lets connections in again after Cut.
func (l *Link) Mend() {
	l.t.Helper()
	if err := l.proxy.Start(); err != nil {
		l.t.Fatalf("mend the link at %s: %v", l.Addr, err)
	}
}
