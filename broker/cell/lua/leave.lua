-- leave: a gateway ends. Its name is free, and a heartbeat of it that lands later is refused.
-- KEYS: mark, gateways. ARGV: node, boot. Answer: ok | already: another boot has the name
local node, boot = unpack(ARGV)
local v = redis.call('HGET', KEYS[2], node)
if v and string.match(v, '^%d+ (%S+) ') ~= boot then return answer('already') end
redis.call('HSET', mark, 'l:' .. node, boot)
redis.call('HDEL', KEYS[2], node)
return answer('ok')
