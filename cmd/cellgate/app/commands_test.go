package app

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"cellgate/broker/command"
	"cellgate/test/check"
)

// silent accepts connections and answers nothing. asked is closed at the first one.
func silent(t *testing.T) (addr string, asked <-chan struct{}) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check.OK(t, err)
	came := make(chan struct{})
	var once sync.Once
	var taken sync.WaitGroup
	taken.Go(func() {
		var held []net.Conn
		defer func() {
			for _, c := range held {
				_ = c.Close()
			}
		}()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			held = append(held, c)
			once.Do(func() { close(came) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		taken.Wait()
	})
	return ln.Addr().String(), came
}

// Names stay unique when the state file or the topic is recreated.
func TestNamesOfCommandEventsAndRecords(t *testing.T) {
	t.Parallel()
	if a, b := eventID("gw-1", &command.Event{N: 1, Epoch: 36}), eventID("gw-1", &command.Event{N: 1, Epoch: 37}); a == b || a != "gw-1-command-10-1" {
		t.Errorf("msg-id %s and %s", a, b)
	}
	at := time.UnixMilli(1_700_000_000_000)
	a, b := recordRef(2, 7, at), recordRef(2, 7, at.Add(time.Millisecond))
	if a == b || !command.ValidID(a) || recordRef(2, 7, at) != a {
		t.Errorf("ids %s and %s", a, b)
	}
}

// A silent Kafka must not keep the gateway from stopping.
func TestStopDoesNotWaitForASilentKafka(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addr, asked := silent(t)
	file := write(t, dir, "")
	check.Replace(t, file, "timeout: 1s}\nredis", "timeout: 5m}\nredis")
	check.Replace(t, file, "kafka: {brokers: [", "kafka: {brokers: [\""+addr+"\", ")
	a, _ := boot(t, file)
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), check.Patience)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- a.Stop(ctx) }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * check.Patience):
		t.Error("not stopped long after its time")
	}
}
