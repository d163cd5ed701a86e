package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
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

// apiError is an error answer of the API.
type apiError struct {
	Status int
	Title  string `json:"title"`
	Detail string `json:"detail"`
	call   string
	hint   string // what to do, with its leading semicolon
}

func (e *apiError) Error() string {
	why := e.Title
	if e.Detail != "" {
		why = e.Detail
	}
	return fmt.Sprintf("%s: %d: %s%s", e.call, e.Status, why, e.hint)
}

// maxAnswer bounds what a call reads, in bytes.
const maxAnswer = 64 << 20

// stream makes a call that answers with server-sent events and passes their data to tell, until ctx ends, the gateway
// ends the stream, or tell returns an error.
func (a *apiClient) stream(ctx context.Context, path string, tell func(data []byte) error) error {
	resp, err := a.send(ctx, &http.Client{Transport: a.http.Transport}, "GET", path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is left to do with it
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		if data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: ")); ok {
			if err := tell(data); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return fmt.Errorf("GET %s: the gateway has ended the stream", path)
}

// maxEvent bounds one event of a stream, in bytes.
const maxEvent = 4 << 20

// do makes one call. It sends in as JSON unless nil, and decodes the answer into out unless nil.
func (a *apiClient) do(ctx context.Context, method, path string, in, out any) error {
	resp, err := a.send(ctx, a.http, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end below
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if out == nil || len(bytes.TrimSpace(answer)) == 0 {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: answer: %w", method, path, err)
	}
	return nil
}

// send makes one call, with in as JSON unless nil. An error answer is an error; the body of any other is the caller's to
// close.
func (a *apiClient) send(ctx context.Context, client *http.Client, method, path string, in any) (*http.Response, error) {
	name := method + " " + path
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Accept", "application/json, text/event-stream")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, a.unreachable(err)
	}
	if resp.StatusCode < http.StatusMultipleChoices {
		return resp, nil
	}
	defer resp.Body.Close()                                       //nolint:errcheck // nothing is left to do with it
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) //nolint:errcheck // the status says enough
	no := problemOf(name, resp.StatusCode, answer)
	no.hint = a.hint(no, resp.Header.Get("Retry-After"))
	return nil, no
}

// call is a call of the API whose answer a command prints.
type call[T any] struct {
	method, path string
	body         any
	show         func(p *printer, answer *T, now time.Time)
}

// print calls the gateway named by t and prints the answer.
func (r call[T]) print(cmd *cobra.Command, c *cli, t *target) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	var answer T
	if err := client.do(cmd.Context(), r.method, r.path, r.body, &answer); err != nil {
		return err
	}
	return c.print(&answer, func(p *printer) { r.show(p, &answer, time.Now()) })
}

// command completes a command that makes this call and nothing else.
func (r call[T]) command(c *cli, cmd *cobra.Command) *cobra.Command {
	t := &target{}
	cmd.Args = takes()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return r.print(cmd, c, t) }
	c.callFlags(cmd, t)
	return cmd
}

// remove asks the gateway named by t to delete something and prints the outcome: done with --json, text without.
func (c *cli) remove(cmd *cobra.Command, t *target, path string, done map[string]string, text string) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	if err := client.do(cmd.Context(), "DELETE", path, nil, nil); err != nil {
		return err
	}
	return c.print(done, func(p *printer) { p.say("%s\n", text) })
}

// problemOf decodes a problem document (RFC 9457), or keeps the body as text.
func problemOf(call string, status int, body []byte) *apiError {
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

// hint returns what the user can do about an error answer.
func (a *apiClient) hint(no *apiError, retryAfter string) string {
	switch no.Status {
	case http.StatusUnauthorized:
		if end := tokenEnd(a.token); !end.IsZero() && end.Before(time.Now()) {
			return fmt.Sprintf("; it expired at %s: issue another with `cellgate token issue`", whenText(end, time.Now()))
		}
		return "; it takes one of this gateway's cell with the scope for the call: `cellgate token issue --operator NAME`, on the gateway's machine"
	case http.StatusForbidden:
		return "; issue one with `cellgate token issue --service NAME --scope SCOPE`, or --operator NAME for all"
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if retryAfter != "" {
			return "; try again in " + retryAfter + " s"
		}
		return "; try again later"
	}
	return ""
}

// tokenEnd returns the expiry of a token; zero when it has none. The token is not verified: the gateway does that.
func tokenEnd(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(body, &claims) != nil || claims.Expires <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expires), 0)
}

func (a *apiClient) unreachable(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%s: no gateway answers: %w; is it running?", a.base, op.Err)
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%s: %w; name its authority with --ca", a.base, unknown)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%s: %w", a.base, err)
}
