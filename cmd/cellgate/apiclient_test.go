package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cellgate/test/check"
)

// A refusal names the call, the reason, and the remedy.
func TestRefusalsSayWhatToDo(t *testing.T) {
	t.Parallel()
	claims := func(exp time.Time) string {
		return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, exp.Unix())) + ".c2ln"
	}
	for _, tc := range []struct {
		name, token, body, retry, want string
		status                         int
	}{
		{name: "expired", status: 401, token: claims(time.Now().Add(-time.Hour)), body: `{"title":"token not accepted"}`, want: "GET /v1/x: 401: token not accepted; it expired at "},
		{name: "foreign", status: 401, token: claims(time.Now().Add(time.Hour)), body: `{"title":"token not accepted"}`, want: "; it takes one of this gateway's cell"},
		{name: "no token at all", status: 401, token: "nonsense", want: "401: Unauthorized; it takes one"},
		{name: "scope", status: 403, token: "t", body: `{"title":"insufficient scope","detail":"this call needs the scope vehicle:admin"}`, want: "403: this call needs the scope vehicle:admin; issue one with `cellgate token issue"},
		{name: "busy", status: 429, token: "t", retry: "7", body: `{"title":"queue full"}`, want: "429: queue full; try again in 7 s"},
		{name: "not a problem document", status: 500, token: "t", body: "<html>proxy</html>", want: "500: <html>proxy</html>"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tc.retry != "" {
					w.Header().Set("Retry-After", tc.retry)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer s.Close()
			client, err := newAPIClient(s.URL, tc.token, nil)
			check.OK(t, err)
			err = client.do(t.Context(), "GET", "/v1/x", nil, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}

// A certificate of an unknown authority names --ca.
func TestUnknownAuthorityNamesTheFlag(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	defer s.Close()
	client, err := newAPIClient(s.URL, "t", nil)
	check.OK(t, err)
	if err := client.do(t.Context(), "GET", "/v1/x", nil, nil); err == nil || !strings.HasSuffix(err.Error(), "; name its authority with --ca") {
		t.Errorf("got %v", err)
	}
}
