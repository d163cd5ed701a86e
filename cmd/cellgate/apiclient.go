package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// apiClient calls the HTTP API of a gateway.
type apiClient struct {
	base  string
	token string
	http  *http.Client
}

func newAPIClient(base, token string, config *tls.Config) (*apiClient, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, usagef("api: %q is not a URL such as http://127.0.0.1:8080", base)
	}
	transport := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	return &apiClient{strings.TrimSuffix(base, "/"), token, &http.Client{Transport: transport, Timeout: 2 * time.Minute}}, nil
}

// apiError is an answer that says no.
type apiError struct {
	Status int
	Title  string `json:"title"`
	Detail string `json:"detail"`
	call   string
}

func (e *apiError) Error() string {
	why := e.Title
	if e.Detail != "" {
		why = e.Detail
	}
	return fmt.Sprintf("%s: %d: %s", e.call, e.Status, why)
}

// maxAnswer bounds what a call reads.
const maxAnswer = 64 << 20

// do makes one call; in is sent as JSON unless nil, and the answer decoded into out unless nil.
func (a *apiClient) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return a.unreachable(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end below
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return problemOf(method+" "+path, resp.StatusCode, answer)
	}
	if out == nil || len(bytes.TrimSpace(answer)) == 0 {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: answer: %w", method, path, err)
	}
	return nil
}

// problemOf reads a problem document (RFC 9457), or takes the text as it is.
func problemOf(call string, status int, body []byte) error {
	e := &apiError{}
	if err := json.Unmarshal(body, e); err != nil || e.Title == "" {
		e.Title = strings.TrimSpace(string(body[:min(len(body), 500)]))
	}
	if e.Title == "" {
		e.Title = http.StatusText(status)
	}
	e.Status, e.call = status, call
	return e
}

func (a *apiClient) unreachable(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%s: no gateway answers: %w; is it running?", a.base, op.Err)
	}
	return fmt.Errorf("%s: %w", a.base, err)
}
