-- send: the caller is about to put a command on the wire. It may when this is answered ok, and confirmed.
-- KEYS: mark, command, vehicle. ARGV: node, boot, epoch
-- Answer: ok and the record | already and the record: it is final | doubt: it may have been sent by somebody whose memory is
-- gone | not-owner | expired | missing | closed
if not open then return answer('closed') end
local node, boot, epoch = unpack(ARGV)
local c = redis.call('HMGET', KEYS[2], 'state', 'gen', 'expires')
if not c[1] then return answer('missing') end
if final(c[1]) then return answer('already', unpack(redis.call('HGETALL', KEYS[2]))) end
if c[1] == 'queued' and tonumber(c[2]) < doubt then return answer('doubt') end
local owner = redis.call('HMGET', KEYS[3], 'node', 'boot', 'epoch')
if owner[1] ~= node or owner[2] ~= boot or owner[3] ~= epoch then return answer('not-owner') end
if tonumber(c[3]) <= now then return answer('expired') end
if c[1] == 'queued' then redis.call('HSET', KEYS[2], 'state', 'sent', 'sent', text(now)) end
return answer('ok', unpack(redis.call('HGETALL', KEYS[2])))
