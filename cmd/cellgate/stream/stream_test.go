package stream_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/cmd/cellgate/stream"
	"cellgate/test/check"
)

func identity(name string) auth.Identity {
	return auth.Identity{Subject: name, Role: auth.RoleOperator, Issuer: "cell"}
}

// open serves a feed and returns a reader of its lines.
func open(t *testing.T, f *stream.Feed, expires time.Time) *bufio.Scanner {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.Serve(w, r, expires) }))
	resp, err := http.Get(s.URL)
	check.OK(t, err)
	t.Cleanup(func() {
		_ = resp.Body.Close()
		s.Close()
	})
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("content type %s", kind)
	}
	return bufio.NewScanner(resp.Body)
}

// rest reads a stream to its end.
func rest(lines *bufio.Scanner) (all string) {
	for lines.Scan() {
		all += lines.Text() + "\n"
	}
	return all
}

func feed(t *testing.T, g *stream.Gate, name string) *stream.Feed {
	t.Helper()
	f, err := g.Enter(identity(name))
	check.OK(t, err)
	return f
}

func TestEventsComeInOrderAndTheEndSaysWhy(t *testing.T) {
	t.Parallel()
	g, h := stream.NewGate(64, nil), stream.NewHub()
	f := feed(t, g, "ada")
	leave := h.Follow(f, "a", "b")
	for i := range 3 {
		h.Publish(func() stream.Event { return stream.Event{Name: "n", Data: fmt.Append(nil, i)} }, "a", "b") // follows both: once
	}
	h.Publish(func() stream.Event { t.Error("an event was made for nobody"); return stream.Event{} }, "c")
	h.End(stream.EndFinal, "a")
	got := rest(open(t, f, time.Time{}))
	want := "event: n\ndata: 0\n\nevent: n\ndata: 1\n\nevent: n\ndata: 2\n\nevent: end\ndata: {"
	if !strings.Contains(got, want) || !strings.Contains(got, `"reason":"final"`) {
		t.Errorf("got\n%s", got)
	}
	leave()
	if h.Wanted("a") {
		t.Error("wanted by nobody")
	}
}

func TestASlowReaderIsDroppedAndNotified(t *testing.T) {
	t.Parallel()
	g, h := stream.NewGate(64, nil), stream.NewHub()
	f, quick := feed(t, g, "slow"), feed(t, g, "quick")
	defer h.Follow(f, "k")()
	for range 1000 {
		h.Publish(func() stream.Event { return stream.Event{Name: "n", Data: []byte("1")} }, "k") // it does not block
	}
	if got := rest(open(t, f, time.Time{})); strings.Contains(got, "event: n") || !strings.Contains(got, `"reason":"slow"`) {
		t.Errorf("got\n%s", got)
	}
	quick.Offer(stream.Event{Name: "n", Data: make([]byte, 2<<20)}) // larger than what may wait
	if got := rest(open(t, quick, time.Time{})); !strings.Contains(got, `"reason":"slow"`) {
		t.Errorf("got\n%s", got)
	}
}

func TestBoundsOfOneSubjectAndOfAll(t *testing.T) {
	t.Parallel()
	g := stream.NewGate(12, nil)
	var own []*stream.Feed
	for range stream.MostPerSubject {
		own = append(own, feed(t, g, "ada"))
	}
	if _, err := g.Enter(identity("ada")); err == nil {
		t.Error("one subject took more than its share")
	}
	for i := range 12 - stream.MostPerSubject {
		feed(t, g, fmt.Sprint("other", i))
	}
	if _, err := g.Enter(identity("late")); err == nil {
		t.Error("more streams than there may be")
	}
	g.Leave(own[0])
	g.Leave(own[0]) // once
	feed(t, g, "late")
	if _, err := g.Enter(identity("later")); err == nil {
		t.Error("leaving twice made two places")
	}
}

func TestAStreamEndsWithItsTokenAndWithTheGateway(t *testing.T) {
	t.Parallel()
	g := stream.NewGate(64, nil)
	expired := feed(t, g, "expired")
	if got := rest(open(t, expired, time.Now().Add(10*time.Millisecond))); !strings.Contains(got, `"reason":"token"`) {
		t.Errorf("expired:\n%s", got)
	}
	revoked, kept := feed(t, g, "revoked"), feed(t, g, "kept")
	g.Ended(func(id auth.Identity) error {
		if id.Subject == "revoked" {
			return auth.ErrRevoked
		}
		return nil
	})
	if got := rest(open(t, revoked, time.Time{})); !strings.Contains(got, `"reason":"token"`) {
		t.Errorf("revoked:\n%s", got)
	}
	lines := open(t, kept, time.Time{})
	g.Close()
	if got := rest(lines); !strings.Contains(got, `"reason":"shutdown"`) {
		t.Errorf("stopped:\n%s", got)
	}
	if _, err := g.Enter(identity("late")); err == nil {
		t.Error("a stream after the end")
	}
}
