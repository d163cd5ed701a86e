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

// Link is a TCP proxy to one server that a test can cut, slow down or black-hole. It accepts connections until the test
// ends, whether or not the server is up.
type Link struct {
	Addr string // for clients

	t     testing.TB
	proxy *toxiproxy.Proxy
}

// NewLink returns a link to the server at upstream.
func NewLink(t testing.TB, name, upstream string) *Link {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled) // toxics log to the global logger only
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

// Toxic is one fault of a link, in toxiproxy's terms.
type Toxic struct {
	Type string `json:"type"` // latency, bandwidth, timeout, limit_data, reset_peer, slicer
	// Stream is upstream, what clients send (the default), or downstream.
	Stream     string           `json:"stream"`
	Attributes map[string]int64 `json:"attributes"`
}

// Afflict adds toxics to the link, including its open connections.
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

// Heal removes all toxics.
func (l *Link) Heal() { l.proxy.Toxics.ResetToxics(context.Background()) }

// Cut closes all connections of the link and refuses new ones until Mend.
func (l *Link) Cut() { l.proxy.Stop() }

// Restore accepts connections again after Cut.
func (l *Link) Restore() {
	l.t.Helper()
	if err := l.proxy.Start(); err != nil {
		l.t.Fatalf("mend the link at %s: %v", l.Addr, err)
	}
}
