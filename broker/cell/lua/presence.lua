-- presence: an event of a session, numbered within its vehicle.
-- KEYS: mark, vehicle, sessions of the slot
-- ARGV: vin, node, boot and epoch of the session, event (connected | ready | disconnected), at, reason
-- Answer: ok and seq | already: the session has ended, and somebody has told that.
-- A session ends once, whoever says so: its gateway, or a survivor when that is gone. What the vehicle shows is changed by
-- the session of its last claim only, so that a connect wins over the end of the session before.
local vin, node, boot, epoch, event, at, reason = unpack(ARGV)
local field = vin .. '/' .. epoch
if redis.call('HGET', KEYS[3], field) ~= boot .. ' ' .. node then return answer('already') end
local seq = redis.call('HINCRBY', KEYS[2], 'seq', 1)
if redis.call('HGET', KEYS[2], 'epoch') == epoch then
  redis.call('HSET', KEYS[2], 'event', event, 'at', at, 'reason', reason)
end
if event == 'disconnected' then redis.call('HDEL', KEYS[3], field) end
return answer('ok', text(seq))
