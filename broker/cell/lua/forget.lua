-- forget: a member will not come back, an operator says. What it remembered is gone.
-- KEYS: mark. ARGV: node that is gone, then the members that the caller remembers
-- Answer: ok | waiting, then generation and floor
redis.call('HDEL', mark, 'm:' .. ARGV[1])
for i = 2, #ARGV do
  if ARGV[i] ~= ARGV[1] then redis.call('HSETNX', mark, 'm:' .. ARGV[i], '') end
end
local floor = tonumber(redis.call('HGET', mark, 'floor') or '0')
local function done(verdict)
  redis.call('HSET', mark, 'gen', text(gen), 'floor', text(floor))
  return answer(verdict, text(gen), text(floor))
end
if open then
  gen = gen + 1
  floor = gen
  return done('ok')
end
redis.call('HSET', mark, 'fresh', '1')
local all = redis.call('HGETALL', mark)
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 2) == 'm:' and all[i + 1] ~= server then return done('waiting') end
end
gen = gen + 1
floor = gen
redis.call('HDEL', mark, 'fresh')
redis.call('HSET', mark, 'open', server, 'doubt', text(math.max(doubt, floor)))
return done('ok')
