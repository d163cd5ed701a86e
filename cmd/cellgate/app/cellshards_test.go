package app

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/test/check"
)

// TestOneServerOfSeveral: a server of a Redis cluster that does not answer is away for its own slots, whatever the others do.
func TestOneServerOfSeveral(t *testing.T) {
	t.Parallel()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, MaxRetries: -1})
	defer client.Close() //nolint:errcheck // nothing is written
	store := storeAt(t, client)
	logs := &check.Log{}
	m := &member{store: store, log: slog.New(slog.NewTextHandler(logs, nil)), wake: make(chan struct{}, 1), shards: newShards(store.Slots())}
	away := func(want string) {
		t.Helper()
		some, all := m.shards.away()
		if got := fmt.Sprint(some); got != want || all != m.allAway() || m.anyAway() != (want != "[]") {
			t.Errorf("away: %s, all: %v; want %s", got, all, want)
		}
	}
	away("[0-16383]")
	m.note(9, nil)
	away("[]")
	thirds := map[int]cell.Server{0: {Last: 5460}, 5461: {Last: 10922}, 10923: {Last: 16383}}
	m.shards.split(thirds)
	away("[]")
	refused := fmt.Errorf("claim: %w: %w", cell.ErrAway, redis.ErrClosed)
	m.note(5461, refused)
	for slot := range 5461 {
		m.note(slot, nil)
	}
	away("[5461-10922]")
	for slot, want := range map[int]bool{0: false, 5460: false, 5461: true, 7000: true, 10922: true, 10923: false, 16383: false} {
		if m.isAway(slot) != want {
			t.Errorf("slot %d: away: %v", slot, m.isAway(slot))
		}
	}
	if n := strings.Count(logs.String(), "Redis does not respond"); n != 1 || !strings.Contains(logs.String(), "slots=5461-10922") {
		t.Errorf("%d times: %s", n, logs)
	}
	m.shards.split(thirds)
	away("[5461-10922]")
	m.shards.split(map[int]cell.Server{100: {Last: 5460}, 5461: {Last: 8000}, 8001: {Last: 16000}}) // some have none
	away("[5461-8000 8001-16000]")
	m.note(8001, nil)
	m.note(5461, nil)
	m.note(50, refused)
	m.note(16383, refused)
	away("[0-99 16001-16383]")
	for slot := range store.Slots() {
		m.note(slot, refused)
	}
	if !m.allAway() {
		t.Error("not all are away")
	}
}

// TestAwayAfterTwo: Redis counts as away after two timeouts or broken connections in a row, and at once if it cannot be dialed or says that
// it does not serve.
func TestAwayAfterTwo(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{MaxRetries: -1, DisableIdentity: true})
	defer client.Close() //nolint:errcheck // nothing is written
	store := storeAt(t, client)
	m := &member{store: store, log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), shards: newShards(1)}
	away := func(err error) error { return fmt.Errorf("claim: %w: %w", cell.ErrAway, err) }
	late, broken := away(os.ErrDeadlineExceeded), away(io.EOF)
	for i, step := range []struct {
		err  error
		away bool
	}{
		{nil, false},
		{late, false},
		{nil, false},
		{late, false},
		{cell.ErrUnconfirmed, false},
		{late, false},
		{late, true},
		{nil, false},
		{late, false},
		{broken, true},
		{nil, false},
		{broken, false},
		{away(io.ErrUnexpectedEOF), true},
		{nil, false},
		{away(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), true},
		{nil, false},
		{away(errors.New("LOADING")), true},
		{nil, false},
	} {
		if m.note(0, step.err); m.allAway() != step.away {
			t.Errorf("step %d, %v: away %v", i, step.err, m.allAway())
		}
	}
}
