package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/configs"
	"cellgate/test/check"
)

// place creates a data folder with a configuration for a gateway name and a Redis. Redis may take long to answer: it is in the
// test's process, which gets little processor time on a busy machine.
func place(t *testing.T, node, mode, redis string) string {
	t.Helper()
	dir := t.TempDir()
	file := write(t, dir, "limits: {connect_timeout: 5m}\n")
	settings := "cell: {id: cell-1, node: " + node + "}"
	if mode == "several" {
		settings = "cell: {id: cell-1, node: " + node + ", gateways: several, join_key: join.key}"
		check.OK(t, os.WriteFile(filepath.Join(dir, "join.key"), []byte("0123456789abcdef\n"), 0o600))
	}
	check.Replace(t, file, "cell: {id: cell-1, node: gw-1}", settings)
	text := check.Read(t, file)
	_, rest, _ := strings.Cut(string(text), "redis: {addresses: [")
	old, _, _ := strings.Cut(rest, "]")
	check.Replace(t, file, "redis: {addresses: ["+old+"], timeout: 1s", `redis: {addresses: ["`+redis+`"], timeout: 1m, confirm_timeout: 10s`)
	return file
}

// TestRefusal: a second gateway of a single cell, or with the same name, is refused with the name of the first.
func TestRefusal(t *testing.T) {
	t.Parallel()
	for _, one := range []struct{ what, first, second, node, want string }{
		{"a second one of single", "single", "single", "gw-2", "cell.gateways is single"},
		{"several beside single", "single", "several", "gw-2", "cell.gateways is single"},
		{"single beside several", "several", "single", "gw-2", "cell.gateways is single"},
		{"the same name", "several", "several", "gw-1", "another gateway has this name"},
	} {
		t.Run(one.what, func(t *testing.T) {
			t.Parallel()
			addr := miniredis.RunT(t).Addr()
			a, _ := boot(t, place(t, "gw-1", one.first, addr))
			err := refusedStart(t, place(t, one.node, one.second, addr))
			if err == nil || !strings.Contains(err.Error(), one.want) || !strings.Contains(err.Error(), "gw-1 at "+a.HTTPURL()) ||
				!strings.Contains(err.Error(), a.started.UTC().Format(time.RFC3339)) {
				t.Errorf("%v", err)
			}
		})
	}
}

// storeAt returns the scripts of a cell without replicas.
func storeAt(t *testing.T, client redis.UniversalClient) *cell.Store {
	t.Helper()
	store, err := cell.NewStore(client, "cell-1", cell.Confirmation{Wait: time.Second}, time.Hour)
	check.OK(t, err)
	return store
}

// TestRefusalHolds: a gateway that was told of another one does not start because Redis then stops answering.
func TestRefusalHolds(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, DisableIdentity: true})
	defer client.Close() //nolint:errcheck // only read
	store := storeAt(t, client)
	first := cell.Gateway{Node: "gw-1", Boot: "a", Dir: "one", Start: time.Now(), Mode: "several", Runs: "{}"}
	_, _, err := store.Alive(t.Context(), first, time.Hour)
	check.OK(t, err)
	logs := &check.Log{}
	second := &liveness{store: store, self: first, log: slog.New(slog.NewTextHandler(logs, nil))}
	second.self.Boot, second.self.Dir = "b", "two"
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var beats atomic.Int64
	go func() { ended <- second.begin(ctx, func() string { beats.Add(1); return "{}" }) }()
	check.Eventually(t, "it waits", func() bool { return strings.Contains(logs.String(), "another gateway may be running") })
	server.SetError("LOADING Redis is loading the dataset in memory")
	before := beats.Load()
	check.Eventually(t, "it asks again", func() bool { return beats.Load() > before+2 })
	stop()
	if err := <-ended; !errors.Is(err, errRefused) {
		t.Errorf("started: %v", err)
	}
}

// TestTwoOfSeveral: two gateways run next to each other and know each other.
func TestTwoOfSeveral(t *testing.T) {
	t.Parallel()
	addr := miniredis.RunT(t).Addr()
	a, _ := boot(t, place(t, "gw-1", "several", addr))
	b, _ := boot(t, place(t, "gw-2", "several", addr))
	for _, one := range []*App{a, b} {
		check.Within(t, check.Patience, "both are known", func() error { return knows(one, "gw-1", "gw-2") })
	}
	halt(t, b)
	check.OK(t, a.liveness.beat(t.Context(), check.Patience))
	check.OK(t, knows(a, "gw-1"))
}

// knows returns an error unless a gateway knows exactly these living gateways.
func knows(a *App, nodes ...string) error {
	var names []string
	all, _ := a.liveness.gateways()
	for _, g := range all {
		if g.Lives {
			names = append(names, g.Node)
		}
	}
	if slices.Sort(names); !slices.Equal(names, nodes) {
		return fmt.Errorf("%s knows %v", a.cfg.Cell.Node, names)
	}
	return nil
}

// TestDeadGateway: the entry of a killed gateway delays others until it expires, and one with the same data_dir not at
// all.
func TestDeadGateway(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	file := place(t, "gw-1", "single", server.Addr())
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, DisableIdentity: true})
	defer client.Close() //nolint:errcheck // only read
	store := storeAt(t, client)
	a, _ := boot(t, file)
	gone := a.liveness.self
	halt(t, a)
	killed := func() {
		gone.Boot = "killed" // that of a has left
		_, _, err := store.Alive(t.Context(), gone, 3*time.Second)
		check.OK(t, err)
	}
	killed()
	b, _ := boot(t, file)
	if b.liveness.self.Boots != gone.Boots+1 || b.liveness.self.Dir != gone.Dir {
		t.Errorf("%+v after %+v", b.liveness.self, gone)
	}
	halt(t, b)
	killed()
	boot(t, place(t, "gw-1", "single", server.Addr())) // its disk is lost
}

// TestReplaced: a gateway ends when it finds a later boot of its data_dir.
func TestReplaced(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	a, _ := boot(t, place(t, "gw-1", "single", server.Addr()))
	later := a.liveness.self
	later.Boot, later.Boots = "later", later.Boots+1
	_, _, err := a.liveness.store.Alive(t.Context(), later, time.Minute)
	check.OK(t, err)
	select {
	case err := <-a.Fatal():
		if !strings.Contains(err.Error(), "a later start of this data_dir has taken over") {
			t.Error(err)
		}
	case <-time.After(check.Patience):
		t.Error("it goes on")
	}
}

// TestAwayAtTheStart: without Redis a gateway starts; one that should not have ends when Redis is back.
func TestAwayAtTheStart(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	a, _ := boot(t, place(t, "gw-1", "single", server.Addr()))
	server.SetError("LOADING")
	b, _ := boot(t, place(t, "gw-2", "single", server.Addr()))
	server.SetError("")
	select {
	case err := <-b.Fatal():
		if !strings.Contains(err.Error(), "gw-1 at "+a.HTTPURL()) {
			t.Error(err)
		}
	case err := <-a.Fatal():
		t.Errorf("the first one ends: %v", err)
	case <-time.After(check.Patience):
		t.Error("both go on")
	}
}

// TestOpening: a new cell opens after a while, its memory survives a stop, and a flushed Redis gets new offers.
func TestOpening(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	file := place(t, "gw-1", "several", server.Addr())
	a, _ := boot(t, file)
	isOpen := func(a *App) func() error { return func() error { return a.member.ready(0) } }
	check.Within(t, check.Patience, "the cell begins", isOpen(a))
	server.FlushAll()
	check.Within(t, check.Patience, "after the flush", func() error {
		answer, err := a.member.store.Look(t.Context(), "V", "c")
		if err == nil && answer.Verdict == cell.Closed {
			a.member.closed(0)
			return errCellClosed
		}
		return err
	})
	server.SetError("LOADING")
	check.Within(t, check.Patience, "Redis is away", func() error {
		if err := a.member.ready(0); err != errCellAway { //nolint:errorlint // it is this one
			return fmt.Errorf("it says %w", errors.Join(errCellClosed, err))
		}
		return nil
	})
	server.SetError("")
	check.Within(t, check.Patience, "Redis is back", isOpen(a))
	halt(t, a)
	b, _ := boot(t, file)
	if !b.member.memory[0].Remembers {
		t.Error("it remembers nothing")
	}
}

// TestJoinKey: the secret has a length, and errors name the key.
func TestJoinKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "cell.yaml")
	key := filepath.Join(filepath.Dir(file), "join.key")
	check.OK(t, os.WriteFile(file, []byte("cell: {id: c, node: n, gateways: several, join_key: join.key}\n"), 0o600))
	c, err := configs.Load(file)
	check.OK(t, err)
	for text, want := range map[string]string{"": "is empty", "\n": "16 or more", "short\n": "16 or more", "  0123456789abcdef \n": ""} {
		check.OK(t, os.WriteFile(key, []byte(text), 0o600))
		got, err := joinKey(c)
		if want == "" && (err != nil || string(got) != "0123456789abcdef") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	check.OK(t, os.Remove(key))
	if _, err := joinKey(c); err == nil || !strings.Contains(err.Error(), "cell.join_key") {
		t.Errorf("without the file: %v", err)
	}
}
