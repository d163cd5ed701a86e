package cell

import (
	"context"
	"crypto/sha1" // #nosec G505 -- Redis identifies scripts by SHA-1
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var sources embed.FS

// Errors of every call.
var (
	// ErrUnconfirmed means that the script may have run but the replicas do not have what it wrote or read. The
	// requester gets "unknown, repeat with this id"; nothing may be published or sent.
	ErrUnconfirmed = errors.New("redis: not confirmed by the replicas")
	// ErrAway means that Redis gave no answer, an error, or an answer that no script gives. The script may have run.
	ErrAway = errors.New("redis: no answer")
	// ErrLeft means that the gateway has left before its heartbeat arrived.
	ErrLeft = errors.New("cell: this gateway has left")
)

// script is a script of the folder lua with the files that precede it.
type script struct {
	name, text, sum string
}

// loadScript assembles a script: all that decide begin with identity.lua and lib.lua.
func loadScript(name string) (script, error) {
	parts := []string{"identity", "lib", name}
	if name == "published" {
		parts = []string{name}
	}
	var text strings.Builder
	for _, part := range parts {
		source, err := sources.ReadFile("lua/" + part + ".lua")
		if err != nil {
			return script{}, fmt.Errorf("script %s: %w", name, err)
		}
		text.Write(source)
	}
	sum := sha1.Sum([]byte(text.String())) // #nosec G401 -- see the import
	return script{name: name, text: text.String(), sum: hex.EncodeToString(sum[:])}, nil
}

// reply is a script's answer.
type reply struct {
	verdict Verdict
	server  string
	now     int64
	rest    []string
}

// Verdict is a script's decision. Each script documents which it answers.
type Verdict string

// The verdicts.
const (
	OK       Verdict = "ok"
	Already  Verdict = "already"
	Closed   Verdict = "closed"
	Missing  Verdict = "missing"
	Older    Verdict = "older"
	NotOwner Verdict = "not-owner"
	Doubt    Verdict = "doubt"
	Early    Verdict = "early"
	Expired  Verdict = "expired"
	Conflict Verdict = "conflict"
	Full     Verdict = "full"
	Moved    Verdict = "moved"
	Waiting  Verdict = "waiting"
	Empty    Verdict = "empty"
	Taken    Verdict = "taken"
	Replaced Verdict = "replaced"
	Second   Verdict = "second"
)

// call is one run of a script.
type call struct {
	script string
	keys   []string // the first is the mark
	args   []any
	// confirm requires that the replicas have what the script wrote and read.
	confirm bool
	// offers says that the call is one of the many of a restoration. That it takes long says nothing about the server.
	offers bool
}

// do runs a script at the server of its keys, and reports whether that answered.
func (s *Store) do(ctx context.Context, c call) (reply, error) {
	r, err := s.run(ctx, c)
	if s.heard != nil && !c.offers {
		s.heard(s.keys.number(c.keys[0]), err)
	}
	return r, err
}

// Heard sets what is called with the outcome of each script, and a slot of the server that ran it. It must be set before the first call.
func (s *Store) Heard(fn func(slot int, err error)) { s.heard = fn }

// run runs a script. If the server does not know the script or no longer has the keys, the script did not run, and it is run once more.
func (s *Store) run(ctx context.Context, c call) (reply, error) {
	for again := false; ; again = true {
		client, err := s.at(ctx, c.keys[0])
		if err != nil {
			return reply{}, fmt.Errorf("%w: %s: %w", ErrAway, c.script, err)
		}
		r, err := s.pipeline(ctx, client, c, again)
		switch {
		case err == nil:
			return r, nil
		case again || !notRun(err):
			return reply{}, fmt.Errorf("%s: %w", c.script, err)
		}
		if cluster, ok := s.client.(*redis.ClusterClient); ok && !redis.HasErrorPrefix(err, "NOSCRIPT") {
			cluster.ReloadState(ctx)
		}
	}
}

// notRun reports whether the server refused to run the script for a reason that may be gone on a retry.
func notRun(err error) bool {
	return redis.HasErrorPrefix(err, "NOSCRIPT") || redis.HasErrorPrefix(err, "MOVED")
}

// at returns the client of the server that has a key.
func (s *Store) at(ctx context.Context, key string) (*redis.Client, error) {
	switch c := s.client.(type) {
	case *redis.Client:
		return c, nil
	case *redis.ClusterClient:
		client, err := c.MasterForKey(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("finding the server of %s: %w", key, err)
		}
		return client, nil
	}
	return nil, fmt.Errorf("a client of type %T cannot run scripts", s.client)
}

// pipeline sends script, WAIT and the query of the server's history on one connection.
func (s *Store) pipeline(ctx context.Context, client *redis.Client, c call, whole bool) (reply, error) {
	var ran, waited *redis.Cmd
	var history *redis.StringCmd
	if c.confirm && s.confirm.Replicas > 0 {
		leave, err := s.places.enter(ctx, client)
		if err != nil {
			return reply{}, err
		}
		defer leave()
	}
	wait := s.doubts.wait(client, s.confirm.Wait)
	_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		if sc := s.scripts[c.script]; whole {
			ran = p.Eval(ctx, sc.text, c.keys, c.args...)
		} else {
			ran = p.EvalSha(ctx, sc.sum, c.keys, c.args...)
		}
		if c.confirm && s.confirm.Replicas > 0 {
			waited = p.Do(ctx, "WAIT", s.confirm.Replicas, wait.Milliseconds())
			history = p.Info(ctx, "replication")
		}
		return nil
	})
	if ran.Err() != nil {
		return reply{}, failed(ran.Err())
	}
	r, bad := parse(ran.Val())
	if bad != nil || !c.confirm || s.confirm.Replicas == 0 {
		return r, bad
	}
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	if err := s.confirmed(client, waited, wait); err != nil {
		return r, err
	}
	return r, sameHistory(r.server, history)
}

// confirmed checks that the replicas have what was written on the connection.
func (s *Store) confirmed(client *redis.Client, waited *redis.Cmd, wait time.Duration) error {
	n, err := waited.Int()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	if s.doubts.note(client, n >= s.confirm.Replicas); n < s.confirm.Replicas {
		return fmt.Errorf("%w: %d of %d have it after %v", ErrUnconfirmed, n, s.confirm.Replicas, wait)
	}
	return nil
}

// errAnother means that the server changed during the call: what was confirmed may belong to another history.
var errAnother = fmt.Errorf("%w: the server was replaced meanwhile", ErrUnconfirmed)

// sameHistory checks that a server still has the master_replid in its name. A server that was demoted and promoted counts bytes
// of another history, and its WAIT confirms what is gone. A restart would have ended the connection. A flush does not matter: it
// might as well come after the answer.
func sameHistory(server string, replication *redis.StringCmd) error {
	info, err := replication.Result()
	_, rest, _ := strings.Cut(info, "master_replid:")
	id, _, _ := strings.Cut(rest, "\r\n")
	if _, has, _ := strings.Cut(unsalted(server), ":"); err != nil || id == "" || id != has {
		return errAnother
	}
	return nil
}

// failed separates errors in Redis' answer, which are kept, from transport errors.
func failed(err error) error {
	if notRun(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrAway, err)
}

func parse(v any) (reply, error) {
	list, ok := v.([]any)
	if !ok || len(list) < 3 {
		return reply{}, fmt.Errorf("%w: a script answered %v", ErrAway, v)
	}
	text := make([]string, len(list))
	for i, e := range list {
		if text[i], ok = e.(string); !ok {
			return reply{}, fmt.Errorf("%w: a script answered %v at place %d", ErrAway, e, i)
		}
	}
	now, err := strconv.ParseInt(text[2], 10, 64)
	if err != nil {
		return reply{}, fmt.Errorf("%w: a script answered the time %q", ErrAway, text[2])
	}
	return reply{verdict: Verdict(text[0]), server: text[1], now: now, rest: text[3:]}, nil
}

// at returns field i of the answer, "" past its end.
func (r *reply) at(i int) string {
	if i < len(r.rest) {
		return r.rest[i]
	}
	return ""
}

func (r *reply) number(i int) int64 {
	n, _ := strconv.ParseInt(r.at(i), 10, 64)
	return n
}

// Confirmation says what confirms an answer.
type Confirmation struct {
	// Replicas is how many replicas must have it: every one that may be promoted. It is zero only where the server has
	// no replicas and relies on its disk (Check requires appendfsync always).
	Replicas int
	// Wait is how long to wait for them.
	Wait time.Duration
}

// Store runs the scripts. It is safe for concurrent use and starts no goroutines.
type Store struct {
	client  redis.UniversalClient
	confirm Confirmation
	keep    int64 // retention of final commands in ms
	keys    keys
	scripts map[string]script
	doubts  doubts
	places  places
	heard   func(slot int, err error)
	ranges  atomic.Pointer[[]redis.ClusterSlot] // of a cluster's primaries, as last read
}

// scriptNames lists the scripts of the folder lua, without the common files that they begin with.
func scriptNames() ([]string, error) {
	entries, err := sources.ReadDir("lua")
	if err != nil {
		return nil, fmt.Errorf("scripts: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".lua"); name != "lib" && name != "identity" {
			names = append(names, name)
		}
	}
	return names, nil
}

// NewStore loads the scripts. It does not call Redis. client is a *redis.Client (a server, or a master named by
// sentinels) or a *redis.ClusterClient; name is the cell's; final commands are kept for keep.
func NewStore(client redis.UniversalClient, name string, c Confirmation, keep time.Duration) (*Store, error) {
	s := &Store{client: client, confirm: c, keep: keep.Milliseconds(), keys: keys{cell: name}, scripts: map[string]script{}}
	if c.Wait <= 0 || s.keep <= 0 || c.Replicas < 0 {
		return nil, fmt.Errorf("cell: invalid options: wait %v for %d replicas, keep commands for %v", c.Wait, c.Replicas, keep)
	}
	var retries int
	var read time.Duration
	switch c := client.(type) {
	case *redis.Client:
		retries, read = c.Options().MaxRetries, c.Options().ReadTimeout
	case *redis.ClusterClient:
		retries, read = c.Options().MaxRetries, c.Options().ReadTimeout
		s.keys.tags = tagsBySlot()
	default:
		return nil, fmt.Errorf("cell: a client of type %T cannot run scripts", client)
	}
	if retries > 0 || read <= c.Wait {
		return nil, fmt.Errorf("cell: the Redis client must not retry (MaxRetries -1), and its read timeout must exceed %v", c.Wait)
	}
	names, err := scriptNames()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if s.scripts[name], err = loadScript(name); err != nil {
			return nil, err
		}
	}
	return s, nil
}
