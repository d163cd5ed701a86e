package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
)

// api serves s. A request is allowed if its header Scope is the required scope.
func api(t *testing.T, s *Service) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	h := &Handler{
		Service: s, MaxBody: 1024, MaxWait: 200 * time.Millisecond,
		Require: func(scope string, next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Scope") != scope {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		Caller: func(r *http.Request) Caller {
			may := func(_, name string) bool { return name != r.Header.Get("Forbidden") }
			return Caller{By: r.Header.Get("Caller"), Origin: OriginHTTP, May: may}
		},
	}
	h.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(func() { server.Close(); http.DefaultClient.CloseIdleConnections() })
	return server
}

type answer struct {
	status int
	header http.Header
	body   string
}

func call(t *testing.T, server *httptest.Server, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, server.URL+path, strings.NewReader(body))
	check.OK(t, err)
	req.Header.Set("Scope", map[string]string{"GET": scopeRead, "POST": scopeSend, "DELETE": scopeSend}[method])
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := server.Client().Do(req)
	check.OK(t, err)
	defer res.Body.Close() //nolint:errcheck // read to its end
	data, err := io.ReadAll(res.Body)
	check.OK(t, err)
	return answer{res.StatusCode, res.Header, string(data)}
}

func TestHTTPRefusals(t *testing.T) {
	t.Parallel()
	e := newEngine(0)
	s := start(t, Options{
		Deliverer: e, MaxPayload: 100, MaxQueued: 3,
	})
	server := api(t, s)
	create(t, s, Request{ID: "known", Payload: []byte("1"), JSON: true})
	create(t, s, Request{ID: "sent"})
	e.set(5, nil)
	s.OnReady(vin)
	e.next(t)
	e.next(t)
	for range 3 {
		create(t, s, Request{VIN: "FULL"})
	}
	path := "/v1/vehicles/" + vin + "/commands"
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		detail                   string
	}{
		{"no body", "POST", path, "", 400, "the body is not"},
		{"not JSON", "POST", path, "{", 400, "the body is not"},
		{"unknown member", "POST", path, `{"name":"x","pay":1}`, 400, "unknown field"},
		{"two objects", "POST", path, `{"name":"x"}{}`, 400, "data after the JSON object"},
		{"too long", "POST", path, `{"name":"` + strings.Repeat("x", 2000) + `"}`, 413, "longer than 1024"},
		{"no name", "POST", path, `{}`, 400, "name must be"},
		{"name of two levels", "POST", path, `{"name":"a/b"}`, 400, "name must be"},
		{"name with a wildcard", "POST", path, `{"name":"+"}`, 400, "name must be"},
		{"bad id", "POST", path, `{"name":"x","id":"a b"}`, 400, "id must be"},
		{"bad VIN", "POST", "/v1/vehicles/a%2Fb/commands", `{"name":"x"}`, 400, "VIN must be"},
		{"bad ttl", "POST", path, `{"name":"x","ttl":"soon"}`, 400, "ttl"},
		{"ttl 0", "POST", path, `{"name":"x","ttl":0}`, 400, "ttl"},
		{"ttl too long", "POST", path, `{"name":"x","ttl":"9000h"}`, 400, "ttl must be"},
		{"payload too long", "POST", path, `{"name":"x","payload":"` + strings.Repeat("x", 100) + `"}`, 400, "at most 100"},
		{"two payloads", "POST", path, `{"name":"x","payload":1,"payload_base64":"AA=="}`, 400, "exclude each other"},
		{"bad base64", "POST", path, `{"name":"x","payload_base64":"%"}`, 400, "the body is not"},
		{"bad wait", "POST", path + "?wait=long", `{"name":"x"}`, 400, "wait=long"},
		{"conflict", "POST", path, `{"id":"known","name":"lock","payload":2}`, 409, "used for another"},
		{"full", "POST", "/v1/vehicles/FULL/commands", `{"name":"x"}`, 429, "queue is full"},
		{"unknown", "GET", path + "/nothing", "", 404, "no such command"},
		{"of another vehicle", "GET", "/v1/vehicles/OTHER/commands/known", "", 404, "no such command"},
		{"cancel unknown", "DELETE", path + "/nothing", "", 404, "no such command"},
		{"cancel sent", "DELETE", path + "/sent", "", 409, "no longer be cancelled"},
		{"bad state", "GET", "/v1/commands?state=gone", "", 400, "state=gone"},
		{"bad limit", "GET", "/v1/commands?limit=0", "", 400, "limit=0"},
		{"bad cursor", "GET", "/v1/commands?cursor=!", "", 400, "cursor=!"},
	} {
		a := call(t, server, c.method, c.path, c.body)
		var p struct {
			Status int    `json:"status"`
			Detail string `json:"detail"`
		}
		if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: not a problem: %s", c.name, a.body)
		}
		if a.status != c.status || p.Status != c.status || !strings.Contains(p.Detail, c.detail) {
			t.Errorf("%s: %d %q, want %d … %s …", c.name, a.status, p.Detail, c.status, c.detail)
		}
		if (c.status == 429 || c.name == "locked") && a.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", c.name)
		}
		if a := call(t, server, c.method, c.path, c.body, "Scope", "other"); a.status != http.StatusForbidden {
			t.Errorf("%s: %d without the scope", c.name, a.status)
		}
	}
}

func TestHTTPLife(t *testing.T) {
	t.Parallel()
	e := newEngine(5)
	s := start(t, Options{Deliverer: e})
	server := api(t, s)
	path := "/v1/vehicles/" + vin + "/commands"
	body := `{"name":"lock","payload":{"doors": [1, 2]},"ttl":"30s"}`

	first := call(t, server, "POST", path, body, "Idempotency-Key", "key one", "Caller", "svc")
	var cmd Command
	check.OK(t, json.Unmarshal([]byte(first.body), &cmd))
	if first.status != 202 || first.header.Get("Location") != path+"/"+cmd.ID || string(cmd.Payload) != `{"doors":[1,2]}` ||
		cmd.TTL != "30s" || cmd.By != "svc" {
		t.Fatalf("POST: %d %v %s", first.status, first.header, first.body)
	}
	again := call(t, server, "POST", path, body, "Idempotency-Key", "key one", "Caller", "svc")
	if again.status != 202 || again.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("the same key again: %d %s", again.status, again.body)
	}
	e.next(t).Sent()

	go func() {
		for d := range e.arrived {
			d.Acked(0)
			id := strings.Split(d.Topic, "/")[3]
			result(t, s, id, Succeeded, `"ok"`)
			return
		}
	}()
	done := call(t, server, "POST", path+"?wait=10s", `{"name":"horn","id":"h1"}`)
	if done.status != 200 || !strings.Contains(done.body, `"state":"succeeded"`) || !strings.Contains(done.body, `"result":"ok"`) {
		t.Errorf("with wait: %d %s", done.status, done.body)
	}
	short := call(t, server, "POST", path+"?wait=10ms", `{"name":"horn","id":"h2"}`)
	if short.status != 202 || !strings.Contains(short.body, `"id":"h2"`) {
		t.Errorf("a wait that runs out: %d %s", short.status, short.body)
	}
	e.set(0, nil)
	call(t, server, "POST", path, `{"name":"horn","id":"h3"}`)
	if a := call(t, server, "DELETE", path+"/h3", ""); a.status != 200 || !strings.Contains(a.body, `"state":"cancelled"`) {
		t.Errorf("cancel: %d %s", a.status, a.body)
	}
	if a := call(t, server, "GET", path+"/h1", ""); a.status != 200 || !strings.Contains(a.body, `"delivered_at"`) {
		t.Errorf("GET: %d %s", a.status, a.body)
	}
}

func TestHTTPList(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Deliverer: newEngine(0)})
	server := api(t, s)
	for i := range 7 {
		create(t, s, Request{ID: fmt.Sprintf("c%d", i), VIN: fmt.Sprintf("V%d", i%2)})
		if i < 3 {
			_, err := s.Cancel(context.Background(), Caller{}, fmt.Sprintf("V%d", i%2), fmt.Sprintf("c%d", i))
			check.OK(t, err)
		}
	}
	list := func(query string) (ids string) {
		t.Helper()
		for pages := 0; pages < 10; pages++ {
			a := call(t, server, "GET", "/v1/commands?"+query, "")
			var p page
			if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.status != 200 {
				t.Fatalf("%s: %d %s", query, a.status, a.body)
			}
			for _, c := range p.Commands {
				ids += c.ID + " "
			}
			if p.Cursor == "" {
				return ids
			}
			ids += "| "
			query = strings.Split(query, "&cursor=")[0] + "&cursor=" + p.Cursor
		}
		t.Fatalf("%s: no end", query)
		return ""
	}
	for query, want := range map[string]string{
		"":                        "c6 c5 c4 c3 c2 c1 c0 ",
		"limit=3":                 "c6 c5 c4 | c3 c2 c1 | c0 ",
		"limit=7":                 "c6 c5 c4 c3 c2 c1 c0 ",
		"state=queued&limit=2":    "c6 c5 | c4 c3 ",
		"state=cancelled&limit=2": "c2 c1 | c0 ",
		"state=late":              "",
		"vin=V1":                  "c5 c3 c1 ",
		"id=c4":                   "c4 ",
		"id=c4&state=cancelled":   "",
		"id=nothing":              "",
	} {
		if got := list(query); got != want {
			t.Errorf("?%s: %q, want %q", query, got, want)
		}
	}
}

// A request has one name: with two, repeating only one of them would create another command.
func TestHTTPIDWithIdempotencyKeyIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Deliverer: newEngine(0)})
	server := api(t, s)
	path := "/v1/vehicles/" + vin + "/commands"
	a := call(t, server, "POST", path, `{"name":"lock","id":"c1"}`, "Idempotency-Key", "key one")
	if a.status != 400 || !strings.Contains(a.body, "id and Idempotency-Key exclude each other") {
		t.Errorf("both: %d %s", a.status, a.body)
	}
	if page, _, err := s.List(context.Background(), Filter{}); err != nil || len(page) != 0 {
		t.Errorf("accepted %+v, %v", page, err)
	}
}

// Durations accept days, as in the configuration.
func TestTTLInDays(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Deliverer: newEngine(0), MaxTTL: 8 * 24 * time.Hour})
	server := api(t, s)
	for id, ttl := range map[string]string{"h1": `"7d"`, "h2": `"6d24h"`, "h3": "604800"} {
		a := call(t, server, "POST", "/v1/vehicles/"+vin+"/commands", `{"name":"lock","id":"`+id+`","ttl":`+ttl+`}`)
		if a.status != 202 || !strings.Contains(a.body, `"ttl":"168h"`) {
			t.Errorf("ttl %s: %d %s", ttl, a.status, a.body)
		}
	}
	m := Message{Ref: "k-0-1", At: time.Now(), Value: []byte(`{"id":"k1","vin":"` + vin + `","name":"lock","ttl":"7d"}`)}
	check.OK(t, s.accept(t.Context(), []Message{m}, "vehicle.commands/0", []byte("1")))
	flush(t, s)
	if cmd, err := s.Get(context.Background(), vin, "k1"); err != nil || cmd.TTL != "168h" {
		t.Errorf("by Kafka: %+v, %v", cmd, err)
	}
	for _, ttl := range []string{`"9d"`, `"-1d"`, `"7 d"`, `"1week"`} {
		if a := call(t, server, "POST", "/v1/vehicles/"+vin+"/commands", `{"name":"lock","ttl":`+ttl+`}`); a.status != 400 {
			t.Errorf("ttl %s: %d %s", ttl, a.status, a.body)
		}
	}
}
