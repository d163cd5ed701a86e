-- told: the end of a session is in Kafka.
-- KEYS: mark, sessions of the slot. ARGV: vin, epoch. Answer: ok | already: it was told before, or has not ended
local field = ARGV[1] .. '/' .. ARGV[2]
if not string.match(redis.call('HGET', KEYS[2], field) or '', '^%S+ [^ ]+ %d') then return answer('already') end
redis.call('HDEL', KEYS[2], field)
return answer('ok')
