package auth

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/shared/stable"
)

// Bounds of fetching a key set.
const (
	maxJWKSBytes  = 256 << 10
	jwksTimeout   = 10 * time.Second
	jwksRetry     = 5 * time.Second  // first pause after a failure; doubles up to the refresh interval
	jwksHintPause = 30 * time.Second // least pause before a fetch caused by an unknown kid
	jwksRedirects = 3
)

// externalKeys is the key set of one external issuer, from a file that is followed or a URL that is fetched in the
// background. The last set read stays in force until there is a newer one, so that an unavailable issuer does not lock
// out its bearers.
type externalKeys struct {
	configured ExternalIssuer // as configured
	cfg        ExternalIssuer // with defaults
	stop       context.CancelFunc
	issuer     *issuer
	copy       string // file with the URL's last answer
	client     *http.Client
	hint       chan struct{}
	log        *slog.Logger
	metrics    *Metrics

	set atomic.Pointer[[]*verifyKey]

	fileMu sync.Mutex // serialises reloadFile and guards below
	stamp  string     // of the file when last read
}

func newExternalKeys(e *ExternalIssuer, cfg *Config) *externalKeys {
	sum := sha256.Sum256([]byte(e.Issuer))
	x := &externalKeys{
		configured: *e, cfg: *e, issuer: e.issuer(cfg.Cell), log: cfg.Log, metrics: cfg.Metrics, hint: make(chan struct{}, 1),
		copy: filepath.Join(cfg.Dir, "jwks-"+hex.EncodeToString(sum[:8])+".json"),
	}
	x.client = &http.Client{Timeout: jwksTimeout, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > jwksRedirects {
			return errors.New("too many redirects")
		}
		return validJWKSURL(e.Issuer, r.URL.String())
	}}
	if e.JWKSURL != "" {
		x.loadCopy()
	}
	if e.JWKSFile != "" {
		if _, err := x.reloadFile(); err != nil {
			x.log.Warn("external key set cannot be read; its tokens are refused until then", "issuer", e.Issuer, "err", err)
		}
	}
	return x
}

func (x *externalKeys) keys() []*verifyKey {
	if p := x.set.Load(); p != nil {
		return *p
	}
	return nil
}

// install replaces the set and reports whether it differs.
func (x *externalKeys) install(b []byte) (changed bool, err error) {
	keys, err := parseJWKS(b, x.issuer)
	if err != nil {
		return false, err
	}
	old := x.keys()
	same := func(a, b *verifyKey) bool {
		pub, ok := a.public.(interface{ Equal(x crypto.PublicKey) bool })
		return ok && a.kid == b.kid && a.alg == b.alg && pub.Equal(b.public)
	}
	if slices.EqualFunc(old, keys, same) {
		return false, nil // keep the old objects, which the token cache refers to
	}
	x.set.Store(&keys)
	return true, nil
}

// loadCopy reads the URL's last answer in an earlier run.
func (x *externalKeys) loadCopy() {
	b, err := stable.ReadFile(x.copy)
	if err == nil {
		_, err = x.install(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		x.log.Warn("cached external key set cannot be used", "issuer", x.cfg.Issuer, "err", err)
	}
}

// reloadFile reads a key set file again if it was touched.
func (x *externalKeys) reloadFile() (changed bool, err error) {
	if x.cfg.JWKSFile == "" {
		return false, nil
	}
	x.fileMu.Lock()
	defer x.fileMu.Unlock()
	info, err := os.Stat(x.cfg.JWKSFile)
	if err != nil {
		return false, fmt.Errorf("external issuer %q: %w", x.cfg.Issuer, err)
	}
	stamp := fmt.Sprint(info.Size(), info.ModTime().UnixNano())
	if stamp == x.stamp {
		return false, nil
	}
	if info.Size() > maxJWKSBytes {
		return false, fmt.Errorf("external issuer %q: key set is over %d bytes", x.cfg.Issuer, maxJWKSBytes)
	}
	b, err := stable.ReadFile(x.cfg.JWKSFile)
	if err != nil {
		return false, fmt.Errorf("external issuer %q: %w", x.cfg.Issuer, err)
	}
	if changed, err = x.install(b); err != nil {
		return false, fmt.Errorf("external issuer %q: %s: %w", x.cfg.Issuer, x.cfg.JWKSFile, err)
	}
	x.stamp = stamp
	return changed, nil
}

// run fetches the URL until ctx ends, and calls changed after each answer with other keys.
func (x *externalKeys) run(ctx context.Context, changed func()) {
	if x.cfg.JWKSURL == "" {
		return
	}
	defer x.client.CloseIdleConnections()
	retry := jwksRetry
	for {
		wait := x.cfg.Refresh
		differs, err := x.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			x.metrics.jwks.WithLabelValues("error").Inc()
			x.log.Warn("external key set not refreshed; the last one stays in force", "issuer", x.cfg.Issuer, "err", err)
			wait = min(retry, wait)
			retry *= 2
			retry = min(retry, x.cfg.Refresh)
		default:
			x.metrics.jwks.WithLabelValues("ok").Inc()
			retry = jwksRetry
		}
		if differs {
			changed()
		}
		if !x.pause(ctx, wait) {
			return
		}
	}
}

// pause waits for the next fetch: for wait ± 10 %, or until an unknown kid was seen, but at least for jwksHintPause if
// wait is longer than that.
func (x *externalKeys) pause(ctx context.Context, wait time.Duration) bool {
	wait += time.Duration(rand.Int64N(int64(wait)/5+1)) - wait/10
	least := min(wait, jwksHintPause)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(least):
	}
	select { // discard a hint from the least pause: the fetch follows now
	case <-x.hint:
		return true
	default:
	}
	select {
	case <-ctx.Done():
		return false
	case <-x.hint:
	case <-time.After(wait - least):
	}
	return true
}

func (x *externalKeys) fetch(ctx context.Context) (changed bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, x.cfg.JWKSURL, nil)
	if err != nil {
		return false, err
	}
	resp, err := x.client.Do(req)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("answered %s", resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKSBytes+1))
	if err != nil {
		return false, err
	}
	if len(b) > maxJWKSBytes {
		return false, fmt.Errorf("key set is over %d bytes", maxJWKSBytes)
	}
	if changed, err = x.install(b); err != nil || !changed {
		return changed, err
	}
	return true, writeFileAtomic(x.copy, b)
}

// hintUnknownKey asks for an early fetch from the external issuers, in the background, since an unknown kid may be a
// new key. It costs one channel operation per issuer.
func (a *Authority) hintUnknownKey() {
	for _, x := range *a.external.Load() {
		select {
		case x.hint <- struct{}{}:
		default:
		}
	}
}
