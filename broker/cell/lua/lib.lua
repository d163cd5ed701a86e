-- Begins every script. KEYS[1] is the mark of the slot that the other keys are in:
--   salt    made with the mark: a Redis that was flushed is another server
--   n       when the last script ran: each one writes, so that WAIT covers what it has read
--   served  the server that it ran at. When it is another one now: turned is since when, and was the n of before. What happened
--           between was and turned, this Redis has lost, be it by a failover or because it is an old backup
--   open    the server for which the commands of this slot are decided
--   gen     the generation; floor, doubt: see join.lua; fresh: a member without memory has come since the last opening
--   m:NODE  a member, and the server that it has offered to
--   x:NODE  when an operator has forgotten a member: what others remember of it does not bring it back, until it joins itself
--   l:NODE  in the slot of the gateways: the boot of NODE that has ended last
-- Every script answers {verdict, server, time in ms, …}.
if redis.replicate_commands then redis.replicate_commands() end -- before Redis 7: TIME before a write

local function milliseconds()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local now = milliseconds()
local got = redis.call('HMGET', mark, 'salt', 'open', 'gen', 'doubt', 'n', 'served', 'was', 'turned')
local salt = got[1]
if not salt then
  local t = redis.call('TIME')
  salt = t[1] .. '.' .. t[2]
  redis.call('HSET', mark, 'salt', salt)
end
local server = identity(salt)
local was, turned = tonumber(got[7] or '0'), tonumber(got[8] or '0')
if got[6] ~= server then
  was, turned = tonumber(got[5] or '0'), now
  redis.call('HSET', mark, 'served', server, 'was', got[5] or '0', 'turned', string.format('%.0f', now))
end
redis.call('HSET', mark, 'n', string.format('%.0f', now))
local open = got[2] == server
local gen = tonumber(got[3] or '0')
local doubt = tonumber(got[4] or '0')

-- text writes a number without an exponent.
local function text(n) return string.format('%.0f', n) end

local function answer(verdict, ...)
  return {verdict, server, text(now), ...}
end

-- members are the nodes, each with 1 if its offers are in, else 0.
local function members()
  local all, out = redis.call('HGETALL', mark), {}
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'm:' then
      out[#out + 1] = string.sub(all[i], 3)
      out[#out + 1] = all[i + 1] == server and '1' or '0'
    end
  end
  return out
end

-- remember registers a member that somebody else remembers.
local function remember(node)
  if redis.call('HEXISTS', mark, 'x:' .. node) == 0 then redis.call('HSETNX', mark, 'm:' .. node, '') end
end

-- Merging prefers the state of higher rank. A result that the vehicle reported has the highest.
local ranks = {
  queued = 1, sent = 2, delivered = 3, accepted = 4, cancelled = 5, expired = 6,
  late = 9, rejected = 10, failed = 11, succeeded = 12,
}

local function rank(state, cause)
  local r = ranks[state] or 0
  if state == 'expired' and cause ~= 'not_sent' then
    r = r + (cause == 'unknown' and 1 or 2)
  end
  return r
end

local function final(state) return ranks[state] >= ranks.cancelled end

-- finish ends a command: it is no longer open. Its record, and its place among those that ended, stay for keep ms.
local function finish(record, opened, due, ended, id, vin, keep)
  redis.call('ZREM', opened, id)
  redis.call('ZREM', due, vin .. '/' .. id)
  redis.call('PEXPIRE', record, keep)
  redis.call('ZADD', ended, text(now), vin .. '/' .. id)
  redis.call('ZREMRANGEBYSCORE', ended, '-inf', text(now - tonumber(keep)))
end

-- untold keeps the end of a command in the index of the open ones, until the gateway that decided it has it on its disk and
-- removes it (published.lua). If that gateway was killed before, expire gives the end to another one.
local function untold(due, id, vin)
  redis.call('ZADD', due, text(now + 10000), vin .. '/' .. id)
end
