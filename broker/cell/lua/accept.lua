-- accept: a new command, queued.
-- KEYS: mark, vehicle, command, open commands of the vehicle, open commands of the slot by their end
-- ARGV: vin, id, digest of what was asked for, ttl in ms, when it was given (by the server's time; 0: now), how many the
-- vehicle may have open, the server that has reserved the id (empty: it is confirmed), then fields and values of the record that
-- scripts do not look at (name, payload, …)
-- Answer: ok and the record | already and the record: it was accepted before | conflict: another command has the id |
-- expired: its time is over | full | moved: another server has reserved the id | closed
if not open then return answer('closed') end
local vin, id, digest, ttl, created, most, reserved = unpack(ARGV, 1, 7)
if reserved ~= '' and reserved ~= server then return answer('moved') end
if redis.call('EXISTS', KEYS[3]) == 1 then
  if redis.call('HGET', KEYS[3], 'digest') ~= digest then return answer('conflict') end
  return answer('already', unpack(redis.call('HGETALL', KEYS[3])))
end
created = tonumber(created)
if created == 0 or created > now then created = now end
local expires = created + tonumber(ttl)
if expires <= now then return answer('expired') end
if redis.call('ZCARD', KEYS[4]) >= tonumber(most) then return answer('full') end
local number = redis.call('HINCRBY', KEYS[2], 'number', 1)
redis.call('HSET', KEYS[3], 'id', id, 'vin', vin, 'state', 'queued', 'gen', text(gen), 'digest', digest, 'number', text(number),
  'created', text(created), 'expires', text(expires), unpack(ARGV, 8))
redis.call('ZADD', KEYS[4], number, id)
redis.call('ZADD', KEYS[5], expires, vin .. '/' .. id)
return answer('ok', unpack(redis.call('HGETALL', KEYS[3])))
