-- alive: a gateway lives, for another ttl ms.
-- KEYS: mark, gateways. ARGV: node, boot, id of the data_dir, start (ms), mode (single | several), ttl,
-- boots of the data_dir so far, what it runs (JSON)
-- Answer: ok | taken: another data_dir lives under this name | replaced: a later boot of the same data_dir does |
-- closed: the caller has left | second: the cell, or the caller, has one gateway only; then node, start, what it runs, and until when it lives, of the one that is there.
-- After ok: for each gateway that lives or has lived in the last day: node, boot, 1 if it lives, start, mode, what it runs.
local node, boot, dir, start, mode, ttl, boots, runs = unpack(ARGV)
local day = 86400000
if redis.call('HGET', mark, 'l:' .. node) == boot then return answer('closed') end
-- A copied data_dir has counted alike.
local function later(count, began)
  if count ~= boots then return tonumber(count) > tonumber(boots) end
  return tonumber(began) > tonumber(start)
end
local all, out = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #all, 2 do
  local name = all[i]
  local its, theirs, folder, began, how, count, what = string.match(all[i + 1], '^(%d+) (%S+) (%S+) (%d+) (%S+) (%d+) (.*)$')
  local lives = tonumber(its or '0') > now
  if not its or tonumber(its) + day < now then
    redis.call('HDEL', KEYS[2], name)
  elseif name == node then
    if theirs ~= boot and folder == dir and later(count, began) then return answer('replaced', name, began, what, its) end
    if theirs ~= boot and folder ~= dir and lives then return answer('taken', name, began, what, its) end
  else
    if lives and (mode == 'single' or how == 'single') then return answer('second', name, began, what, its) end
    for _, v in ipairs({name, theirs, lives and '1' or '0', began, how, what}) do out[#out + 1] = v end
  end
end
redis.call('HSET', KEYS[2], node, text(now + tonumber(ttl)) .. ' ' .. boot .. ' ' .. dir .. ' ' .. start .. ' ' .. mode .. ' ' .. boots .. ' ' .. runs)
for _, v in ipairs({node, boot, '1', start, mode, runs}) do out[#out + 1] = v end
return answer('ok', unpack(out))
