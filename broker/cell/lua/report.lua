-- report: what the vehicle says of a command.
-- KEYS: mark, command, open commands of the vehicle, open commands of the slot, those that ended
-- ARGV: vin, id, status (delivered | accepted | succeeded | failed | rejected), at in ms, payload, keep in ms, cause
-- Answer: ok and the record | already and the record: it changes nothing | missing: counted, nothing is made | closed
if not open then return answer('closed') end
local vin, id, status, at, payload, keep, cause = unpack(ARGV)
local c = redis.call('HMGET', KEYS[2], 'state', 'gen', 'expires')
local state = c[1]
if not state then return answer('missing') end
-- Somebody whose memory is gone may have told that it expired.
local lost = tonumber(c[2]) < doubt and tonumber(c[3]) <= now
local function done(verdict) return answer(verdict, unpack(redis.call('HGETALL', KEYS[2]))) end
if state == 'expired' or state == 'late' or (lost and not final(state)) then
  local said = redis.call('HGET', KEYS[2], 'outcome')
  if status == 'delivered' or (said and (said ~= 'accepted' or status == 'accepted')) then return done('already') end
  redis.call('HSET', KEYS[2], 'state', 'late', 'outcome', status, status == 'accepted' and 'late_accepted' or 'late', at)
  redis.call('HDEL', KEYS[2], 'told') -- that was the expiry
  if not final(state) then finish(KEYS[2], KEYS[3], KEYS[4], KEYS[5], id, vin, keep) end
elseif not final(state) and rank(status) > rank(state) then
  redis.call('HSET', KEYS[2], 'state', status, final(status) and 'finished' or status, at)
  if final(status) then finish(KEYS[2], KEYS[3], KEYS[4], KEYS[5], id, vin, keep) end
else
  return done('already')
end
if cause ~= '' then redis.call('HSET', KEYS[2], 'cause', cause) end
if status ~= 'delivered' and payload ~= '' then redis.call('HSET', KEYS[2], 'result', payload) end
return done('ok')
