package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"cellgate/test/check"
)

// Call calls an HTTP API with a bearer token ("" for none) and a JSON body (nil for none). It keeps no idle connection,
// which would delay the stop of a gateway.
func Call(ctx context.Context, method, url, token string, body any) (status int, head http.Header, answer []byte, err error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, nil, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return 0, nil, nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := http.Client{Timeout: check.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err = ReadAnswer(resp)
	return resp.StatusCode, resp.Header, answer, err
}

// ReadAnswer reads the body of a response. Of an event stream, which has no end, it reads the beginning.
func ReadAnswer(resp *http.Response) ([]byte, error) {
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return io.ReadAll(resp.Body)
	}
	begin := make([]byte, 512)
	n, err := io.ReadAtLeast(resp.Body, begin, 1)
	return begin[:n], err
}
