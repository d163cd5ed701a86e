package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// waitingGateway accepts a command, and calls waited when a request waits for its state; the answer comes with the end
// of the wait.
func waitingGateway(t *testing.T, waited func()) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("wait") != "" {
			_, _ = io.ReadAll(r.Body)
			waited()
			<-r.Context().Done()
			return
		}
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id":"cmd-1","vin":"LTEST000000000001","name":"x","state":"queued"}`)
	}))
	t.Cleanup(s.Close)
	return s
}

// An interrupted wait for a command prints which command it is, and that it continues.
func TestCommandStoppedWaitingNamesTheCommand(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			ctx, stop := context.WithCancel(t.Context())
			s := waitingGateway(t, stop)
			var out bytes.Buffer
			args := []string{"command", "send", "--api", s.URL, "--token", "t", "--vin", "LTEST000000000001", "--name", "x", "--wait"}
			if format == "json" {
				args = append(args, "--json")
			}
			root := newRoot(&cli{in: strings.NewReader(""), out: &out, err: io.Discard})
			root.SetArgs(args)
			err := root.ExecuteContext(ctx)
			if err == nil || !strings.Contains(err.Error(), "command: cmd-1: queued when the waiting was stopped") ||
				!strings.Contains(err.Error(), "`cellgate command status cmd-1`") {
				t.Errorf("error %v", err)
			}
			if format == "json" {
				var v map[string]any
				unmarshal(t, out.String(), &v)
			} else if !strings.Contains(out.String(), "cmd-1") {
				t.Errorf("printed %q", out.String())
			}
		})
	}
}

// A command for a gateway on this machine names the flags for another gateway.
func TestMissingGatewayErrorNamesFlags(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"status --data /nonexistent":              "or name one with --config or --api",
		"token issue --vin A --data /nonexistent": "or name one with --config or --api",
		"token rotate --data /nonexistent":        "or name one with --config",
		"rules check --data /nonexistent":         "or name one with --config",
		"fleet --data /nonexistent":               "or name one with --config or --broker",
	} {
		var errOut bytes.Buffer
		if got := run(strings.Fields(args), nil, strings.NewReader(""), io.Discard, &errOut); got != exitNo || !strings.HasSuffix(errOut.String(), want+"\n") {
			t.Errorf("%s: exit %d, %s", args, got, errOut.String())
		}
	}
}

// A command is found by its id however many came later: the gateway looks it up.
func TestCommandStatusAsksForTheID(t *testing.T) {
	t.Parallel()
	const known = `{"id":"c1","vin":"LTEST000000000001","name":"x","state":"succeeded","urgent":true}`
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/commands", func(w http.ResponseWriter, r *http.Request) {
		answer := `{"commands":[],"next":"zz"}`
		if r.URL.Query().Get("id") == "c1" {
			answer = `{"commands":[` + known + `]}`
		}
		_, _ = io.WriteString(w, answer)
	})
	mux.HandleFunc("GET /v1/vehicles/LTEST000000000001/commands/c1", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, known) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	for id, want := range map[string]string{"c1": "urgent", "c2": "no command c2"} {
		var out bytes.Buffer
		root := newRoot(&cli{in: strings.NewReader(""), out: &out, err: io.Discard})
		root.SetArgs([]string{"command", "status", id, "--api", s.URL, "--token", "t"})
		if err := root.ExecuteContext(t.Context()); err != nil {
			out.WriteString(err.Error())
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: %s", id, out.String())
		}
	}
}
