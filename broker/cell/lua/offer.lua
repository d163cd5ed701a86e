-- offer: a command as the caller remembers it. The later state stands; the earlier generation too. What is told of an end stays: a
-- cancellation or expiry of which nobody says so is due again.
-- KEYS: mark, vehicle, command, open commands of the vehicle, open commands of the slot, those that ended
-- ARGV: vin, id, keep in ms, then fields and values of the record
-- Answer: ok and the record
local vin, id, keep = unpack(ARGV, 1, 3)
local offered = {}
for i = 4, #ARGV, 2 do offered[ARGV[i]] = ARGV[i + 1] end
local c = redis.call('HMGET', KEYS[3], 'state', 'cause', 'gen', 'outcome')
local by = c[1] and final(c[1]) and redis.call('ZSCORE', KEYS[5], vin .. '/' .. id)
if not c[1] or rank(offered.state, offered.cause) > rank(c[1], c[2]) or (c[1] == 'late' and offered.state == 'late' and c[4] == 'accepted') then
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[3], unpack(ARGV, 4))
elseif offered.told and rank(offered.state, offered.cause) == rank(c[1], c[2]) then
  redis.call('HSET', KEYS[3], 'told', offered.told)
end
if c[3] and tonumber(c[3]) < tonumber(offered.gen) then offered.gen = c[3] end
redis.call('HSET', KEYS[3], 'gen', offered.gen)
local number = tonumber(offered.number or '0')
if number > tonumber(redis.call('HGET', KEYS[2], 'number') or '0') then
  redis.call('HSET', KEYS[2], 'number', text(number))
end
local r = redis.call('HMGET', KEYS[3], 'state', 'number', 'expires', 'told')
if final(r[1]) then
  finish(KEYS[3], KEYS[4], KEYS[5], KEYS[6], id, vin, keep)
  if r[4] then -- published
  elseif by then
    redis.call('ZADD', KEYS[5], by, vin .. '/' .. id)
  elseif r[1] == 'cancelled' or r[1] == 'expired' then
    untold(KEYS[5], id, vin)
  end
else
  redis.call('ZADD', KEYS[4], r[2] or 0, id)
  redis.call('ZADD', KEYS[5], r[3], vin .. '/' .. id)
end
return answer('ok', unpack(redis.call('HGETALL', KEYS[3])))
