-- forget: a member will not come back, an operator says. What it remembered is gone.
-- KEYS: mark. ARGV: node that is gone, then the members that the caller remembers
-- Answer: ok | waiting, then generation, floor, and the members, as join
local month = 2592000000
local all = redis.call('HGETALL', mark)
for i = 1, #all, 2 do -- that long after, a name may come back, and be forgotten once more
  if string.sub(all[i], 1, 2) == 'x:' and tonumber(all[i + 1]) + month < now then redis.call('HDEL', mark, all[i]) end
end
redis.call('HDEL', mark, 'm:' .. ARGV[1])
redis.call('HSET', mark, 'x:' .. ARGV[1], text(now))
for i = 2, #ARGV do remember(ARGV[i]) end
local floor = tonumber(redis.call('HGET', mark, 'floor') or '0')
local registered = members()
local function done(verdict)
  redis.call('HSET', mark, 'gen', text(gen), 'floor', text(floor))
  return answer(verdict, text(gen), text(floor), unpack(registered))
end
if open then
  gen = gen + 1
  floor = gen
  return done('ok')
end
redis.call('HSET', mark, 'fresh', '1')
for i = 2, #registered, 2 do
  if registered[i] == '0' then return done('waiting') end
end
gen = gen + 1
floor = gen
redis.call('HDEL', mark, 'fresh')
redis.call('HSET', mark, 'open', server, 'doubt', text(math.max(doubt, floor)))
return done('ok')
