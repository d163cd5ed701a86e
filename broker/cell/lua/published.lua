-- published: the gateway that decided the end of a command has it on its disk, with its event. No other one has to publish it. At a
-- server that has lost the end, and has been offered the command as it was before, nothing is published yet.
-- KEYS: mark (as every script), command, open commands of the slot. ARGV: vin and id, as the index has them
-- Answer: 1 | 0: this server has it as not ended
local state = redis.call('HGET', KEYS[2], 'state')
if state and state ~= 'cancelled' and state ~= 'expired' and state ~= 'late' then return 0 end
redis.call('ZREM', KEYS[3], ARGV[1])
if state then redis.call('HSET', KEYS[2], 'told', '1') end
return 1
