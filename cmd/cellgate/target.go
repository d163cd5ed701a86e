package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"cellgate/auth"
	"cellgate/cmd/cellgate/runfile"
	"cellgate/configs"
	"cellgate/configs/authority"
)

// target is the gateway that a command is about: one on this machine, by its data folder or configuration, or any by
// URL and token.
type target struct {
	data, config   string
	api, token, ca string
	elsewhere      string // the flag that names a gateway on another machine, "" when the command has none

	once sync.Once
	cfg  *configs.Config
	run  *runfile.File
	err  error
}

// defaultData is the default data folder of `cellgate dev`.
const defaultData = "./data"

// localFlags adds the flags that select a gateway on this machine.
func (t *target) localFlags(cmd *cobra.Command) {
	data := defaultData
	if v := os.Getenv("CELLGATE_DATA"); v != "" {
		data = v
	}
	cmd.Flags().StringVar(&t.data, "data", data, "data folder of cellgate dev; also CELLGATE_DATA")
	cmd.Flags().StringVar(&t.config, "config", "", "configuration of a gateway on this machine, instead of --data")
	cmd.MarkFlagsMutuallyExclusive("data", "config")
}

// flags adds localFlags and the flags for a gateway elsewhere.
func (t *target) flags(cmd *cobra.Command) {
	t.localFlags(cmd)
	t.elsewhere = "--api"
	cmd.Flags().StringVar(&t.api, "api", "", "URL of a gateway's HTTP API, instead of --data; needs --token")
	cmd.Flags().StringVar(&t.token, "token", os.Getenv("CELLGATE_TOKEN"), "token for the API; also CELLGATE_TOKEN")
	cmd.Flags().StringVar(&t.ca, "ca", "", "PEM file of the authority that signed the gateway's certificate")
}

// load reads the configuration that the flags select, and the run file of its gateway if it runs.
func (t *target) load() (*configs.Config, *runfile.File, error) {
	t.once.Do(func() {
		file := t.config
		if file == "" {
			file = filepath.Join(t.data, "configs", "dev.yaml")
			if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
				t.err = fmt.Errorf("data: no gateway in %s; start one with `cellgate dev --data %s`, or name one with %s", t.data, t.data, t.names())
				return
			}
		}
		if t.cfg, t.err = loadConfig(file); t.err == nil {
			t.run, t.err = runfile.Read(string(t.cfg.DataDir))
		}
	})
	return t.cfg, t.run, t.err
}

// names lists the flags that select another gateway.
func (t *target) names() string {
	if t.elsewhere == "" {
		return "--config"
	}
	return "--config or " + t.elsewhere
}

// authority opens the gateway's keys. The caller closes it.
func (t *target) authority() (*auth.Authority, error) {
	cfg, _, err := t.load()
	if err != nil {
		return nil, err
	}
	ac := authority.Config(cfg)
	ac.NoCreate = true
	if ac.Audit, err = authority.AuditLog(cfg, ac.Log, ac.Metrics); err != nil {
		return nil, err
	}
	a, err := auth.Open(ac)
	if errors.Is(err, auth.ErrNoKeys) {
		return nil, fmt.Errorf("auth: no signing key in %s; the gateway makes one on its first start", ac.Dir)
	}
	return a, err
}

// whoami returns the user's name for the audit log.
func whoami() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return "cli:" + u.Username
	}
	return "cli"
}

// callerTTL is the life of a token issued for a command's own calls.
const callerTTL = 5 * time.Minute

// bearer returns a token for the API: the given one, else a short-lived one issued with the gateway's own keys.
func (t *target) bearer() (string, error) {
	if t.token != "" {
		return t.token, nil
	}
	if t.api != "" {
		return "", usagef("token: --api needs --token or CELLGATE_TOKEN")
	}
	a, err := t.authority()
	if err != nil {
		return "", err
	}
	defer closeAuthority(a)
	token, _, err := a.Issue(auth.IssueRequest{Subject: strings.ReplaceAll(whoami(), "/", "-"), Role: auth.RoleOperator, TTL: callerTTL, Caller: auth.Caller{By: whoami()}})
	return token, err
}

func closeAuthority(a *auth.Authority) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = a.Close(ctx) // it only issued a token
}

// client returns a client of the gateway's HTTP API.
func (t *target) client() (*apiClient, error) {
	token, err := t.bearer()
	if err != nil {
		return nil, err
	}
	base := t.api
	if base == "" {
		if base, err = t.localAPI(); err != nil {
			return nil, err
		}
	}
	config, err := t.clientTLS()
	if err != nil {
		return nil, err
	}
	return newAPIClient(base, token, config)
}

// localAPI returns the URL of the gateway on this machine.
func (t *target) localAPI() (string, error) {
	cfg, run, err := t.load()
	if err != nil {
		return "", err
	}
	if run != nil {
		return run.HTTP, nil
	}
	scheme := "http"
	if cfg.HTTP.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + loopbackFor(cfg.HTTP.Address), nil
}

// loopbackFor returns the address to dial for a listening address.
func loopbackFor(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// clientTLS trusts the authority of --ca, else ca.crt next to the gateway's own certificate, else the system's.
func (t *target) clientTLS() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	file := t.ca
	if file == "" && t.api == "" {
		file = t.ownCA()
	}
	if file == "" {
		return config, nil
	}
	pem, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("ca: %w", fileError(file, err))
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca: no certificate in %s", file)
	}
	return config, nil
}

// ownCA returns the path of ca.crt next to a listener's certificate, "" if it does not exist.
func (t *target) ownCA() string {
	cfg, _, err := t.load()
	if err != nil {
		return ""
	}
	for _, l := range cfg.Listeners {
		if l.TLS == nil {
			continue
		}
		file := filepath.Join(filepath.Dir(string(l.TLS.Cert)), "ca.crt")
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// maxPage is the longest page of the API's lists.
const maxPage = 1000

// pageFlags select a part of a list.
type pageFlags struct {
	limit  int
	cursor string
}

func (p *pageFlags) flags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&p.limit, "limit", 100, "maximum number, 1 to 1000")
	cmd.Flags().StringVar(&p.cursor, "cursor", "", "continue where the previous list ended")
}

// query returns the query of the API call.
func (p *pageFlags) query() (url.Values, error) {
	if p.limit < 1 || p.limit > maxPage {
		return nil, usagef("limit: %d: want 1 to %d; --cursor continues where a list ended", p.limit, maxPage)
	}
	query := url.Values{"limit": {strconv.Itoa(p.limit)}}
	if p.cursor != "" {
		query.Set("cursor", p.cursor)
	}
	return query, nil
}
