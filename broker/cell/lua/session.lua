-- session: stores the vehicle's session (subscriptions, expiry, QoS 2 identifiers), if the caller is the owner in its epoch.
-- KEYS: mark, vehicle. ARGV: node, boot, epoch, session; an empty session removes it. Answer: ok | not-owner.
local node, boot, epoch, session = unpack(ARGV)
local c = redis.call('HMGET', KEYS[2], 'node', 'boot', 'epoch')
if c[1] ~= node or c[2] ~= boot or c[3] ~= epoch then return answer('not-owner') end
if session == '' then
  redis.call('HDEL', KEYS[2], 'session')
else
  redis.call('HSET', KEYS[2], 'session', session)
end
return answer('ok')
