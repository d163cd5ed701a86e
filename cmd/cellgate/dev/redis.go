package dev

import (
	"encoding/gob" // not JSON, because values may be any bytes
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// saveEvery is the longest time that a change is only in memory.
const saveEvery = 2 * time.Second

// Redis is an embedded Redis-protocol server that saves its contents to a file.
type Redis struct {
	server *miniredis.Miniredis
	file   string
	stop   chan struct{}
	done   chan struct{}
	once   sync.Once
	err    error
}

// startRedis listens at addr, a loopback host and port (0 picks a free one), with the contents saved in file.
func startRedis(setting, addr, file string) (*Redis, error) {
	port, err := loopbackPort(setting, addr)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return nil, fmt.Errorf("embedded redis: %w", err)
	}
	r := &Redis{server: miniredis.NewMiniRedis(), file: file, stop: make(chan struct{}), done: make(chan struct{})}
	r.server.ClockTTL(true)
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("embedded redis: %s: %w; move the file away to start empty", file, err)
	}
	if err := r.server.StartAddr(fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		return nil, bindError(setting, addr, err)
	}
	go r.save()
	return r, nil
}

// Addr returns host:port.
func (r *Redis) Addr() string { return r.server.Addr() }

// Close saves and stops.
func (r *Redis) Close() error {
	r.once.Do(func() {
		close(r.stop)
		<-r.done
		r.err = r.write()
		r.server.Close()
	})
	return r.err
}

// save periodically writes the contents when they are used.
func (r *Redis) save() {
	defer close(r.done)
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for last := 0; ; {
		select {
		case <-r.stop:
			return
		case <-tick.C:
			if n := r.server.CommandCount(); n != last {
				last = n
				_ = r.write() // the next write, or Close, reports the error
			}
		}
	}
}

// entry is one key with its value.
type entry struct {
	Key     string
	Type    string
	Expires int64 // ms since 1970
	String  string
	List    []string // also a set's members
	Hash    map[string]string
	Scores  map[string]float64
	Stream  []miniredis.StreamEntry
}

func (r *Redis) write() error {
	f, err := os.CreateTemp(filepath.Dir(r.file), ".redis-*")
	if err != nil {
		return fmt.Errorf("embedded redis: %w", err)
	}
	enc := gob.NewEncoder(f)
	for _, key := range r.server.Keys() {
		if e, ok := r.read(key); ok && err == nil {
			err = enc.Encode(e)
		}
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), r.file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("embedded redis: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// read returns a key's value, false when the key is gone or its type is not kept.
func (r *Redis) read(key string) (e entry, ok bool) {
	m := r.server
	e = entry{Key: key, Type: m.Type(key)}
	if ttl := m.TTL(key); ttl > 0 {
		e.Expires = time.Now().Add(ttl).UnixMilli()
	}
	var err error
	switch e.Type {
	case "string":
		e.String, err = m.Get(key)
	case "list":
		e.List, err = m.List(key)
	case "set":
		e.List, err = m.Members(key)
	case "hash":
		var fields []string
		fields, err = m.HKeys(key)
		e.Hash = make(map[string]string, len(fields))
		for _, f := range fields {
			e.Hash[f] = m.HGet(key, f)
		}
	case "zset": // geo sets are sorted sets too
		e.Scores, err = m.SortedSet(key)
	case "stream":
		e.Stream, err = m.Stream(key)
	default:
		return e, false
	}
	return e, err == nil
}

func (r *Redis) load() error {
	f, err := os.Open(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	now := time.Now()
	for dec := gob.NewDecoder(f); ; {
		var e entry
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		ttl := time.UnixMilli(e.Expires).Sub(now)
		if e.Expires > 0 && ttl <= 0 {
			continue
		}
		if err := r.restore(&e); err != nil {
			return fmt.Errorf("key %q: %w", e.Key, err)
		}
		if e.Expires > 0 {
			r.server.SetTTL(e.Key, ttl)
		}
	}
}

func (r *Redis) restore(e *entry) (err error) {
	m := r.server
	switch e.Type {
	case "string":
		err = m.Set(e.Key, e.String)
	case "list":
		_, err = m.Push(e.Key, e.List...)
	case "set":
		_, err = m.SAdd(e.Key, e.List...)
	case "hash":
		for f, v := range e.Hash {
			m.HSet(e.Key, f, v)
		}
	case "zset":
		for member, score := range e.Scores {
			if _, err = m.ZAdd(e.Key, score, member); err != nil {
				return err
			}
		}
	case "stream":
		for _, s := range e.Stream {
			if _, err = m.XAdd(e.Key, s.ID, s.Values); err != nil {
				return err
			}
		}
	}
	return err
}
