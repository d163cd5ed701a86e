package redis

import (
	"context"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// newerScript writes fields of a hash unless the hash is newer. KEYS[1] is the hash. ARGV is the name of the time
// field, the time, the name of the sequence field, the sequence, the time to live in ms (0 for none), the latest
// credible stored time, 1 if the time is the message's own and not that of its receipt, then names and values. Times
// are texts of equal length that sort like times. It returns 1 if it wrote. Repeating a message writes the same again.
//
// A stored time too far ahead comes from a wrong clock, the vehicle's or the gateway's: it does not block updates,
// unless the message is as far ahead. A message without its own time is older only if both time and sequence say so:
// the gateway's clock may have stepped back, and sequences begin again with another journal.
const newerScript = `
local at = redis.call('HGET', KEYS[1], ARGV[1])
if at and (at <= ARGV[6] or ARGV[2] > ARGV[6]) then
  local seq = tonumber(redis.call('HGET', KEYS[1], ARGV[3]) or '')
  local before = seq and seq > tonumber(ARGV[4])
  if ARGV[7] == '1' then
    if at > ARGV[2] or (at == ARGV[2] and before) then return 0 end
  elseif (before and at >= ARGV[2]) or (not seq and at > ARGV[2]) then
    return 0
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
local i = 8
while i <= #ARGV do
  local last = math.min(i + 999, #ARGV)
  redis.call('HSET', KEYS[1], unpack(ARGV, i, last))
  i = last + 1
end
if ARGV[5] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
return 1
`

// seqSuffix is the suffix of the hidden field that decides between equal times.
const seqSuffix = "_seq"

// verdict classifies a reply.
type verdict int

const (
	done   verdict = iota
	again          // a transient failure, or no reply
	script         // the server does not know the script
	refuse         // Redis will never take this command on this key
)

// passing are prefixes of error replies about the state of Redis, not about the command.
var passing = []string{
	"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "OOM", "MISCONF", "NOREPLICAS",
	"MOVED", "ASK", "EXECABORT", "UNBLOCKED",
}

// setup are prefixes of error replies about the configuration of Redis or of our login, which an operator must fix.
var setup = []string{
	"NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "ERR max number of clients", "ERR unknown command", "ERR AUTH", "ERR DB index",
}

func judge(err error) verdict {
	if err == nil || err == goredis.Nil { //nolint:errorlint // the reply itself, never wrapped
		return done
	}
	reply, ok := err.(goredis.Error) //nolint:errorlint // a server reply is never wrapped
	if !ok {
		return again
	}
	said := reply.Error()
	if strings.HasPrefix(said, "NOSCRIPT") {
		return script
	}
	for _, p := range append(setup[:len(setup):len(setup)], passing...) {
		if strings.HasPrefix(said, p) {
			return again
		}
	}
	// Before Redis 7 an error inside a script is wrapped.
	if strings.Contains(said, "running script") {
		for _, p := range passing {
			if strings.Contains(said, p+" ") {
				return again
			}
		}
	}
	return refuse
}

// loadScript loads the script at the master that has a key.
func loadScript(ctx context.Context, c goredis.UniversalClient, key string) error {
	var master goredis.Scripter = c
	if cluster, ok := c.(*goredis.ClusterClient); ok {
		m, err := cluster.MasterForKey(ctx, key)
		if err != nil {
			return err
		}
		master = m
	}
	return master.ScriptLoad(ctx, newerScript).Err()
}
