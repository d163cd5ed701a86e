package console

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// apiError is an error answer of the API.
type apiError struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	// Findings are findings about rules.
	Findings json.RawMessage `json:"diagnostics"`
}

func (e *apiError) Error() string {
	if e.Detail != "" {
		return e.Detail
	}
	return e.Title
}

// answer records an answer of the API.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// call makes one call of the API on behalf of the user. It sends in as JSON unless nil, and decodes the answer into out
// unless nil.
func (v *visit) call(method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(text)
	}
	r, err := v.request(v.r.Context(), method, path, body)
	if err != nil {
		return err
	}
	a := &answer{header: http.Header{}, status: http.StatusOK}
	v.c.o.API.ServeHTTP(a, r)
	if a.status >= http.StatusMultipleChoices {
		no := &apiError{}
		if err := json.Unmarshal(a.body.Bytes(), no); err != nil || no.Title == "" {
			no.Title = http.StatusText(a.status)
		}
		no.Status = a.status
		return no
	}
	if out == nil || a.body.Len() == 0 {
		return nil
	}
	if err := json.Unmarshal(a.body.Bytes(), out); err != nil {
		return fmt.Errorf("%s %s: answer: %w", method, path, err)
	}
	return nil
}

// request makes a request to the API with the address and certificate of the browser's connection.
func (v *visit) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, path, body) //nolint:gosec // handled by the API in this process, never sent
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	r.RemoteAddr, r.TLS, r.RequestURI = v.r.RemoteAddr, v.r.TLS, path
	r.Header.Set("Authorization", "Bearer "+v.s.token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// streams are the event streams that pages may open, by path prefix.
var streams = []string{"events/", "vehicles/", "trace"}

// stream passes one of the API's event streams to the browser, whose EventSource cannot send a token.
func (v *visit) stream(w http.ResponseWriter) {
	path := v.r.PathValue("path")
	known := false
	for _, s := range streams {
		known = known || strings.HasPrefix(path, s)
	}
	if !known || strings.HasPrefix(path, "vehicles/") && !strings.HasSuffix(path, "/events") {
		http.NotFound(w, v.r)
		return
	}
	target := *v.r.URL
	target.Path, target.RawPath = "/v1/"+path, ""
	r, err := v.request(v.r.Context(), http.MethodGet, target.RequestURI(), nil)
	if err != nil {
		http.NotFound(w, v.r)
		return
	}
	v.c.o.API.ServeHTTP(w, r)
}
