-- refuse: a command that ends before it was accepted. It has a record, so that no other gateway accepts it.
-- Its gateway publishes it, or reads the request again: it is never due for another one (told).
-- KEYS: mark, command, those that ended in the slot
-- ARGV: vin, id, digest, state (rejected | expired), cause, keep in ms, then fields and values that scripts do not look at
-- Answer: ok and the record | already and the record: there is one | closed
if not open then return answer('closed') end
local vin, id, digest, state, cause, keep = unpack(ARGV, 1, 6)
if redis.call('EXISTS', KEYS[2]) == 1 then return answer('already', unpack(redis.call('HGETALL', KEYS[2]))) end
redis.call('HSET', KEYS[2], 'id', id, 'vin', vin, 'state', state, 'cause', cause, 'gen', text(gen), 'digest', digest,
  'created', text(now), 'expires', text(now), 'finished', text(now), 'told', '1', unpack(ARGV, 7))
redis.call('PEXPIRE', KEYS[2], keep)
redis.call('ZADD', KEYS[3], text(now), vin .. '/' .. id)
return answer('ok', unpack(redis.call('HGETALL', KEYS[2])))
