-- look: a command as it is.
-- KEYS: mark, command. Answer: ok and the record | missing | closed
if not open then return answer('closed') end
local record = redis.call('HGETALL', KEYS[2])
if #record == 0 then return answer('missing') end
return answer('ok', unpack(record))
