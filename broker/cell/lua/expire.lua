-- expire: ends a command whose time is over. Its cause tells how far it had come: not_sent, unknown (somebody
-- whose memory is gone may know more), not_acknowledged, no_result. It also gives an end that no gateway has on its disk to
-- the caller.
-- KEYS: mark, command, open commands of the vehicle, open commands of the slot, those that ended. ARGV: vin, id, keep in ms
-- Answer: ok and the record: the caller publishes its state | already and the record: it is final | early | missing | closed
if not open then return answer('closed') end
local vin, id, keep = unpack(ARGV)
local c = redis.call('HMGET', KEYS[2], 'state', 'gen', 'expires')
if not c[1] then
  redis.call('ZREM', KEYS[4], vin .. '/' .. id)
  return answer('missing')
end
if final(c[1]) then
  local verdict, by = 'already', redis.call('ZSCORE', KEYS[4], vin .. '/' .. id)
  if by and tonumber(by) <= now then
    untold(KEYS[4], id, vin)
    verdict = 'ok'
  end
  return answer(verdict, unpack(redis.call('HGETALL', KEYS[2])))
end
if tonumber(c[3]) > now then return answer('early') end
local cause = 'no_result'
if tonumber(c[2]) < doubt then
  cause = 'unknown'
elseif c[1] == 'queued' then
  cause = 'not_sent'
elseif c[1] == 'sent' then
  cause = 'not_acknowledged'
end
redis.call('HSET', KEYS[2], 'state', 'expired', 'cause', cause, 'finished', text(now))
finish(KEYS[2], KEYS[3], KEYS[4], KEYS[5], id, vin, keep)
untold(KEYS[4], id, vin)
return answer('ok', unpack(redis.call('HGETALL', KEYS[2])))
