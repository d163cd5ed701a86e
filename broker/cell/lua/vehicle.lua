-- vehicle: what Redis knows of a vehicle.
-- KEYS: mark, vehicle. Answer: ok | missing, then its fields: node, boot, conn, epoch, since of the claim, session, and seq,
-- event, at, reason of its last presence.
local v = redis.call('HGETALL', KEYS[2])
if #v == 0 then return answer('missing') end
return answer('ok', unpack(v))
