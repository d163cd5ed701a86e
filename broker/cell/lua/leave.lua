-- leave: a gateway ends. Its name is free.
-- KEYS: mark, gateways. ARGV: node, boot. Answer: ok | already: another boot has the name
local node, boot = unpack(ARGV)
local v = redis.call('HGET', KEYS[2], node)
if not v or string.match(v, '^%d+ (%S+) ') ~= boot then return answer('already') end
redis.call('HDEL', KEYS[2], node)
return answer('ok')
