package preflight

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cellgate/cmd/cellgate/app"
)

// Measurements of the disk.
const (
	syncs      = 200
	syncsTime  = 500 * time.Millisecond // fewer syncs on a disk that takes longer
	syncBytes  = 4096
	slowSync   = 10 * time.Millisecond
	driftLimit = time.Second
)

// redis checks Redis, and returns the difference of its clock from ours.
func (c *checks) redis(ctx context.Context) map[string]time.Duration {
	const section = "redis.addresses"
	client, err := app.RedisClient(&c.cfg.Redis)
	if err != nil {
		c.bad("redis", "redis", err.Error(), "")
		return nil
	}
	defer client.Close() //nolint:errcheck // nothing was written
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	sent := time.Now()
	at, err := client.Time(ctx).Result()
	if err != nil {
		c.bad("redis", section, strings.Join(c.cfg.Redis.Addresses, ", ")+": "+err.Error(), redisRemedy(err))
		return nil
	}
	c.good("redis", section, "%s answers", strings.Join(c.cfg.Redis.Addresses, ", "))
	if policy := client.ConfigGet(ctx, "maxmemory-policy").Val()["maxmemory-policy"]; policy != "" && policy != "noeviction" {
		c.warn("redis", section, "maxmemory-policy is "+policy+": Redis may delete what rules have written", "set it to noeviction, which cell.gateways: several needs")
	}
	return map[string]time.Duration{"redis": at.Sub(middle(sent))}
}

// middle returns the middle of the time since from: about when the server read its clock.
func middle(from time.Time) time.Time { return from.Add(time.Since(from) / 2) }

func redisRemedy(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "WRONGPASS"), strings.Contains(text, "NOAUTH"), strings.Contains(text, "NOPERM"):
		return "check redis.username and redis.password"
	case strings.Contains(text, "tls:"), strings.Contains(text, "x509:"):
		return "check redis.tls: ca, server_name, cert and key"
	}
	return "check the address, the network and whether Redis runs"
}

// disk checks the disk of the journal.
func (c *checks) disk() {
	dir := string(c.cfg.Uplink.Journal.Dir)
	at := existing(dir)
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		c.bad("disk", "data_dir", fmt.Sprintf("%s cannot be written to: %v", at, err), "make the gateway's user its owner")
		return
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		c.bad("disk", "data_dir", fmt.Sprintf("%s: %v", at, err), "")
		return
	}
	free := int64(fs.Bavail) * fs.Bsize //nolint:gosec // of a disk
	want := int64(c.cfg.Uplink.Journal.MaxBytes) + int64(c.cfg.Uplink.Journal.ReserveBytes)
	if used := folderBytes(dir); free+used < want {
		c.warn("disk", "uplink.journal.max_bytes", fmt.Sprintf("%s has %d MiB for the journal, which may need %d MiB with its reserve", at, (free+used)>>20, want>>20),
			"use a larger disk or a smaller max_bytes: the journal stops at what the disk has")
	} else {
		c.good("disk", "uplink.journal.max_bytes", "%s has %d MiB for the journal, which needs at most %d MiB", at, (free+used)>>20, want>>20)
	}
	p99, err := syncTime(at)
	switch {
	case err != nil:
		c.bad("disk", "uplink.journal.dir", err.Error(), "")
	case p99 > slowSync:
		c.warn("disk", "uplink.journal.dir", fmt.Sprintf("99 of 100 fsyncs take up to %s: every acknowledgement waits for one", p99.Round(10*time.Microsecond)), "use a disk with a write cache that survives power loss")
	default:
		c.good("disk", "uplink.journal.dir", "99 of 100 fsyncs take up to %s", p99.Round(10*time.Microsecond))
	}
}

// existing returns the path, or its nearest existing parent.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// folderBytes returns the size of a folder of segments.
func folderBytes(dir string) (sum int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// syncTime returns the 99th percentile of fsyncs after short writes, like the journal's.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, ".cellgate-check-*")
	if err != nil {
		return 0, err
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, syncBytes)
	times := make([]time.Duration, 0, syncs)
	for until := time.Now().Add(syncsTime); len(times) < syncs && (len(times) == 0 || time.Now().Before(until)); {
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		begin := time.Now()
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	return times[len(times)*99/100], nil
}

func (c *checks) descriptors() {
	const where = "limits.max_connections"
	var fds syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &fds); err != nil {
		c.bad("descriptors", where, err.Error(), "")
		return
	}
	limit, want := app.ConnectionLimit(c.cfg, fds.Max), c.cfg.Limits.MaxConnections
	if limit < want {
		c.warn("descriptors", where, fmt.Sprintf("this user may open %d files: that is %d connections, not %d", fds.Max, max(limit, 0), want), "raise the limit: ulimit -n, LimitNOFILE=")
		return
	}
	c.good("descriptors", where, "this user may open %d files, enough for %d connections", fds.Max, want)
}

// clock compares this machine's clock with others. Tokens, order in Redis and times in Kafka depend on it.
func (c *checks) clock(ctx context.Context, others map[string]time.Duration) {
	if others == nil {
		others = map[string]time.Duration{}
	}
	for i := range c.cfg.Auth.Issuers {
		if at := c.cfg.Auth.Issuers[i].JWKSURL; at != "" {
			if drift, ok := httpDrift(ctx, at); ok {
				others[at] = drift
			}
		}
	}
	if len(others) == 0 {
		c.warn("clock", "clock", "no other clock answered", "synchronise the time: chronyd, systemd-timesyncd")
		return
	}
	for who, drift := range others {
		text := fmt.Sprintf("is %s off that of %s", drift.Abs().Round(time.Millisecond), who)
		switch {
		case drift.Abs() > c.cfg.Auth.Leeway.Std():
			c.bad("clock", "clock", text+", more than auth.leeway: good tokens are refused", "synchronise the time: chronyd, systemd-timesyncd")
		case drift.Abs() > driftLimit:
			c.warn("clock", "clock", text, "synchronise the time: chronyd, systemd-timesyncd")
		default:
			c.good("clock", "clock", "%s", text)
		}
	}
}

// httpDrift returns how far a server's clock is ahead of ours, to the second.
func httpDrift(ctx context.Context, url string) (time.Duration, bool) {
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return 0, false
	}
	sent := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false
	}
	_ = resp.Body.Close() //nolint:errcheck // it has none
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, false
	}
	drift := at.Sub(middle(sent))
	if drift > -2*time.Second && drift < 2*time.Second { // the header has whole seconds
		drift = 0
	}
	return drift, true
}
