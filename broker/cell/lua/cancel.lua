-- cancel: what was never sent does not leave any more.
-- KEYS: mark, command, open commands of the vehicle, open commands of the slot, those that ended. ARGV: vin, id, keep in ms
-- Answer: ok and the record | already and the record: it was sent, or is final | doubt | missing | closed
if not open then return answer('closed') end
local vin, id, keep = unpack(ARGV)
local c = redis.call('HMGET', KEYS[2], 'state', 'gen')
if not c[1] then return answer('missing') end
local verdict = 'already'
if c[1] == 'queued' then
  if tonumber(c[2]) < doubt then return answer('doubt') end
  redis.call('HSET', KEYS[2], 'state', 'cancelled', 'finished', text(now))
  finish(KEYS[2], KEYS[3], KEYS[4], KEYS[5], id, vin, keep)
  untold(KEYS[4], id, vin)
  verdict = 'ok'
end
return answer(verdict, unpack(redis.call('HGETALL', KEYS[2])))
