package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/trace"
	"cellgate/rules/op"
	"cellgate/rules/sink"
)

// job is a message in flight.
type job struct {
	number uint64 // order of arrival at the endpoint
	vin    string
	ticket sink.Ticket
	body   []byte
	header http.Header
}

// newJob builds the request of a message, except for time and signature, which differ per try.
func (s *Sink) newJob(m *sink.Message, t sink.Ticket) *job {
	rec := m.Record
	id := string(m.AppendMsgID(nil))
	h := http.Header{"User-Agent": {"cellgate"}}
	contentType := ""
	var rule, target, item string
	for _, x := range m.Out.Headers {
		switch x.Name {
		case "content-type":
			contentType = x.Value
		case "rule":
			rule = x.Value
		case "target":
			target = x.Value
		case "item":
			item = "/" + x.Value
		}
	}
	h.Set("webhook-id", id+"/"+rule+"/"+target+item)
	if !m.Out.Bare {
		for name, value := range map[string]string{
			"cell": s.o.Cell, "vin": rec.VIN(), "topic": rec.Topic, "rule": rule, "target": target,
			"received-at": string(message.AppendTime(nil, rec.ReceivedAt)),
		} {
			if value != "" {
				h.Set("cellgate-"+name, printable(value))
			}
		}
		if parent := s.o.Sampling.Target(rec, rule, target); parent != "" {
			h.Set(trace.ParentProperty, parent)
		}
	}
	j := &job{vin: rec.VIN(), ticket: t, body: bytes.Clone(m.Out.Value), header: h}
	h.Set("Content-Type", typeOf(contentType, m.Out))
	return j
}

// typeOf returns a body's content type: the vehicle's if valid, else one detected from the body.
func typeOf(said string, out *op.Rendered) string {
	if _, _, err := mime.ParseMediaType(said); err == nil && printable(said) == said {
		return said
	}
	if json.Valid(out.Value) {
		return "application/json"
	}
	return "application/octet-stream"
}

// printable makes a text valid in a header: other bytes than printable ASCII become %XX.
func printable(s string) string {
	const hex = "0123456789ABCDEF"
	var b []byte
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7F && c != '%' {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

// sign returns a try's signatures, one per key.
func sign(keys [][]byte, id, timestamp string, body []byte) string {
	out := ""
	for i, key := range keys {
		mac := hmac.New(sha256.New, key)
		_, _ = io.WriteString(mac, id+"."+timestamp+".")
		_, _ = mac.Write(body)
		if i > 0 {
			out += " "
		}
		out += "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return out
}

// maxAnswer bounds what is read of a response, so that its connection can be reused.
const maxAnswer = 64 << 10

// refusalError is a response that refuses the message permanently.
type refusalError struct{ status string }

func (e *refusalError) Error() string { return "the endpoint answers " + e.status }

// waitError is a response after which the message is retried.
type waitError struct {
	status string
	after  time.Duration // requested delay; 0: none
}

func (e *waitError) Error() string { return "the endpoint answers " + e.status }

// try sends a message once.
func (e *endpoint) try(ctx context.Context, j *job) error {
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.o.URL, bytes.NewReader(j.body))
	if err != nil {
		return err
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header = j.header.Clone()
	req.Header.Set("webhook-timestamp", timestamp)
	req.Header.Set("webhook-signature", sign(e.o.Keys, j.header.Get("webhook-id"), timestamp, j.body))
	begun := time.Now()
	res, err := e.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which may contain a secret
		}
		return err
	}
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer)
	_ = res.Body.Close()
	e.seconds.Observe(time.Since(begun).Seconds())
	return judge(res)
}

// judge classifies a response. Only responses about the message itself refuse it permanently: a wrong key or path is a
// matter of configuration, and the message waits until that is fixed.
func judge(res *http.Response) error {
	status := strconv.Itoa(res.StatusCode) + " " + http.StatusText(res.StatusCode)
	switch code := res.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code >= 300 && code < 400:
		return &waitError{status: status + ": redirects are not followed; use the url that it redirects to"}
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnsupportedMediaType, code == http.StatusUnprocessableEntity:
		return &refusalError{status}
	}
	return &waitError{status, retryAfter(res)}
}

// maxRetryAfter bounds the delay that an endpoint may request.
const maxRetryAfter = time.Minute

func retryAfter(res *http.Response) time.Duration {
	text := res.Header.Get("Retry-After")
	if n, err := strconv.Atoi(text); err == nil {
		return min(maxRetryAfter, time.Duration(max(0, min(n, 3600)))*time.Second)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(maxRetryAfter, max(0, time.Until(at)))
	}
	return 0
}

// newClient returns an endpoint's HTTP client, without proxies and redirects, which would bypass the guard.
func newClient(o *Endpoint) (*http.Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("webhook %s: its url cannot be read", o.Name)
	}
	g := guard{private: o.PrivateNetworks, plain: u.Scheme != "https"}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: g.dialer(o.Timeout).DialContext, TLSClientConfig: o.TLS, TLSHandshakeTimeout: o.Timeout, ForceAttemptHTTP2: true,
			DisableCompression: true, MaxConnsPerHost: o.Requests, MaxIdleConnsPerHost: o.Requests, IdleConnTimeout: time.Minute,
			MaxResponseHeaderBytes: maxAnswer,
		},
	}, nil
}
