-- presence: an event of a session, numbered within its vehicle: later than the one before, and not earlier than the time, so that the
-- numbers of a Redis that has lost some go on behind them.
-- KEYS: mark, vehicle, sessions of the slot
-- ARGV: vin, node, boot and epoch of the session, event (connected | ready | disconnected), at, reason, number of the session's last
-- event or 0
-- Answer: ok and seq, at, reason | already: the session has ended, and that was told (see told.lua) | missing: this Redis has lost what
-- happened then, or knows of earlier ones of the vehicle only | not-owner: it is another boot's
-- A session ends once, whoever says so: its gateway, or a survivor when that is gone. Until that was told, who says it again is
-- answered what was said first. What the vehicle shows is changed by the session of its last claim only, so that a connect wins over the
-- end of the session before.
local vin, node, boot, epoch, event, at, reason, last_seq = unpack(ARGV)
local field = vin .. '/' .. epoch
local who, ended = string.match(redis.call('HGET', KEYS[3], field) or '', '^(%S+ [^ ]+) ?(.*)$')
if not who then
  local last, began = tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0'), tonumber(epoch)
  local known = math.max(began, tonumber(last_seq)) -- a time at which the session was known; it may have begun long before
  local lost = last < began or was < known and known < turned
  return answer(lost and 'missing' or 'already')
end
if who ~= boot .. ' ' .. node then return answer('not-owner') end
if ended ~= '' then
  if event ~= 'disconnected' then return answer('already') end
  return answer('ok', string.match(ended, '^(%d+) (%d+) (.*)$'))
end
local seq = text(math.max(tonumber(redis.call('HGET', KEYS[2], 'seq') or '0') + 1, now))
redis.call('HSET', KEYS[2], 'seq', seq)
if redis.call('HGET', KEYS[2], 'epoch') == epoch then
  redis.call('HSET', KEYS[2], 'event', event, 'at', at, 'reason', reason)
end
if event == 'disconnected' then
  redis.call('HSET', KEYS[3], field, who .. ' ' .. seq .. ' ' .. at .. ' ' .. reason)
end
return answer('ok', seq, at, reason)
