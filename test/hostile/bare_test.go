package hostile

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// TestBareSockets holds idle sockets at every kind of listener, more than the gateway has descriptors, while the
// journal changes its segment every second. The gateway must survive and still serve vehicles, operators and token
// requests.
func TestBareSockets(t *testing.T) {
	t.Parallel()
	web, descriptors, sockets := harness.FreeAddr(t), 300, 150
	if full() {
		descriptors, sockets = 8000, 3500
	}
	var published, answered atomic.Int64
	attackUntilDone(t, attackPlan{
		until: func(*testing.T, *cell) error {
			if published.Load() < 2*perSegment || answered.Load() == 0 {
				return fmt.Errorf("%d messages, %d answers", published.Load(), answered.Load())
			}
			return nil
		},
		options: harness.Options{
			Descriptors: descriptors, VehicleCA: harness.NewAuthority(t),
			Extra:     "uplink: {journal: {segment_bytes: 1MiB}}\n",
			Listeners: []string{fmt.Sprintf("{name: web, address: %q, protocol: ws}", web)},
		},
		lasts: 5 * time.Minute,
		// Each roll creates and syncs a file: it needs descriptors, and it delays what is committed after it, with or
		// without bare sockets.
		beside: func(stop <-chan struct{}, c *cell) { fillSegments(stop, c.Lab, &published) },
		attack: func(ctx context.Context, t *testing.T, c *cell) {
			bare := &attack{held: map[string]int{}, opened: map[string]int{}, stop: make(chan struct{})}
			for _, addr := range []string{c.TokenAPI, web, c.HTTP, c.MQTTS} {
				bare.hold("no byte to "+addr, sockets, addr, nil, nil)
			}
			bad := askOperators(ctx, c, &answered)
			bare.end()
			if len(bad) > 0 {
				t.Errorf("%d answers of the HTTP APIs, and: %v", answered.Load(), errors.Join(bad...))
			}
		},
	})
}

// perSegment is how many messages of fillSegments fill a segment of the journal.
const perSegment = 5

// fillSegments publishes a fifth of a journal segment at a time and counts the acknowledgements.
func fillSegments(stop <-chan struct{}, lab string, acked *atomic.Int64) {
	payload := strings.Repeat("x", 200<<10)
	for !stopped(stop) {
		c, err := mqtt.Open(lab, login("ROLLER", ""), nil)
		if err != nil {
			continue
		}
		for !stopped(stop) {
			if _, err := c.Publish(mqtt.Publish{Topic: "v1/ROLLER/up/bulk", Payload: payload, QoS: 1}); err != nil {
				break
			}
			acked.Add(1)
			time.Sleep(50 * time.Millisecond)
		}
		_ = c.Conn.Close()
	}
}

// askOperators calls both APIs on new connections until ctx ends, counts their answers and returns the errors.
//
// Each request is tried up to three times: on a slow machine a connection that has sent nothing yet may be the oldest
// idle one and be closed for another.
func askOperators(ctx context.Context, c *cell, good *atomic.Int64) (bad []error) {
	client := http.Client{Timeout: check.Patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: c.ClientTLS()}}
	for ctx.Err() == nil {
		for _, url := range []string{"http://" + c.HTTP + "/v1/status", "https://" + c.TokenAPI + "/.well-known/jwks.json"} {
			err := ask(ctx, &client, url, c.operator)
			for range 2 {
				if err != nil {
					err = ask(ctx, &client, url, c.operator)
				}
			}
			switch {
			case ctx.Err() != nil:
			case err != nil:
				bad = append(bad, err)
			default:
				good.Add(1)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return bad
}

func ask(ctx context.Context, client *http.Client, url, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
