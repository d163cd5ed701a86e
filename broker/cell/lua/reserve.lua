-- reserve: takes an id for one command, so that ids are unique in the cell.
-- KEYS: mark, reservation. ARGV: owner of the id (VIN and digest), life in ms, 1 for the id of a command that is offered
-- Answer: ok: it is the owner's, now or since before | conflict: it is another command's | closed
local owner, life, offered = unpack(ARGV)
if not open and offered ~= '1' then return answer('closed') end
local held = redis.call('GET', KEYS[2])
if held and held ~= owner then return answer('conflict') end
redis.call('SET', KEYS[2], owner, 'PX', life)
return answer('ok')
