// Package spread exchanges revocations between the gateways of a cell through Redis.
//
// It implements [auth.RevocationStore] by versioned polling: each entry gets the next version of a counter, and a
// gateway asks for entries newer than the last version it saw. Unlike with publishing alone, a missed poll loses
// nothing: the next one catches up. Redis is a channel here and may lose everything: every gateway keeps its own file
// and adds what is missing.
//
// The data, all under one hash tag so that a Redis cluster keeps it together:
//
//	{key}:log    sorted set: member = JSON of a Revocation, score = its version
//	{key}:until  sorted set: the same members, score = when they can be dropped, in Unix seconds
//	{key}:meta   hash: epoch = a random name of this data, version = the highest assigned
package spread

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"cellgate/auth"
)

// page is the maximum number of entries in one poll; the next poll gets the rest.
const page = 1000

// add: KEYS log, until, meta; ARGV a new epoch, then pairs of member and until.
const addScript = `
if not redis.call('HGET', KEYS[3], 'epoch') then
  redis.call('HSET', KEYS[3], 'epoch', ARGV[1], 'version', 0)
end
for i = 2, #ARGV, 2 do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    local v = redis.call('HINCRBY', KEYS[3], 'version', 1)
    redis.call('ZADD', KEYS[1], v, ARGV[i])
    redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
  end
end
return 1`

// since: KEYS log, until, meta; ARGV the caller's epoch and version, a new epoch, the page. A version below the
// caller's means that a failover lost writes: the data gets a new epoch, and all gateways add their entries again.
const sinceScript = `
local epoch = redis.call('HGET', KEYS[3], 'epoch') or ''
local version = tonumber(redis.call('HGET', KEYS[3], 'version') or '0')
local from = tonumber(ARGV[2])
if epoch ~= '' and epoch == ARGV[1] and version < from then
  epoch = ARGV[3]
  redis.call('HSET', KEYS[3], 'epoch', epoch)
end
if epoch ~= ARGV[1] then from = 0 end
if version <= from then return {epoch, tostring(version)} end
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. from, '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[4]))
local out = {epoch, tostring(version)}
for i = 1, #found, 2 do
  out[#out + 1] = found[i]
  if #found == 2 * tonumber(ARGV[4]) then out[2] = tostring(found[i + 1]) end
end
return out`

// prune: KEYS log, until, meta; ARGV the time. It removes a bounded number at once.
const pruneScript = `
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'LIMIT', 0, 1000)
for i = 1, #old do
  redis.call('ZREM', KEYS[1], old[i])
  redis.call('ZREM', KEYS[2], old[i])
end
return #old`

// Redis is an [auth.RevocationStore].
type Redis struct {
	client            redis.UniversalClient
	keys              []string
	add, since, prune *redis.Script
}

// NewRedis makes the store of one cell under a key name. The client's timeouts apply; the caller closes it.
func NewRedis(client redis.UniversalClient, key, cell string) *Redis {
	tag := "{" + key + ":" + cell + "}"
	return &Redis{
		client: client, keys: []string{tag + ":log", tag + ":until", tag + ":meta"},
		add: redis.NewScript(addScript), since: redis.NewScript(sinceScript), prune: redis.NewScript(pruneScript),
	}
}

// Add implements [auth.RevocationStore].
func (r *Redis) Add(ctx context.Context, entries []auth.Revocation) error {
	args := make([]any, 0, 1+2*len(entries))
	args = append(args, rand.Text())
	for i := range entries {
		b, err := json.Marshal(&entries[i])
		if err != nil {
			return fmt.Errorf("spread: encode revocation: %w", err)
		}
		args = append(args, b, entries[i].Until.Unix())
	}
	if err := r.add.Run(ctx, r.client, r.keys, args...).Err(); err != nil {
		return fmt.Errorf("spread: add: %w", err)
	}
	return nil
}

var errReply = errors.New("spread: unexpected reply")

// Since implements [auth.RevocationStore]. It skips entries that are not the JSON of a revocation.
func (r *Redis) Since(ctx context.Context, c auth.StoreCursor) ([]auth.Revocation, auth.StoreCursor, error) {
	var out []auth.Revocation
	for {
		reply, err := r.since.Run(ctx, r.client, r.keys, c.Epoch, c.Version, rand.Text(), page).StringSlice()
		if err != nil {
			return nil, c, fmt.Errorf("spread: since: %w", err)
		}
		if len(reply) < 2 {
			return nil, c, errReply
		}
		version, err := strconv.ParseInt(reply[1], 10, 64)
		if err != nil {
			return nil, c, errReply
		}
		for _, member := range reply[2:] {
			var e auth.Revocation
			if json.Unmarshal([]byte(member), &e) == nil {
				out = append(out, e)
			}
		}
		c = auth.StoreCursor{Epoch: reply[0], Version: version}
		if len(reply)-2 < page {
			return out, c, nil
		}
	}
}

// Prune implements [auth.RevocationStore].
func (r *Redis) Prune(ctx context.Context, t time.Time) error {
	for {
		n, err := r.prune.Run(ctx, r.client, r.keys, t.Unix()).Int()
		if err != nil {
			return fmt.Errorf("spread: prune: %w", err)
		}
		if n == 0 {
			return nil
		}
	}
}
