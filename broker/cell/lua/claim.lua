-- claim: the vehicle is connected to the caller.
-- KEYS: mark, vehicle, sessions of the slot
-- ARGV: vin, node, boot, connection; age of the connection in ms; since (its beginning by the server's time, as an earlier
-- claim has answered, else empty); epoch that the caller has had for it, 0 for none; what the channels of notices begin with
-- Answer: ok | older; then epoch, since, and node, boot, connection, epoch of the claim that was there (empty for none),
-- then the session (empty for none), and when the connection before ended in ms (empty while it was not said). After `older` the four are those of the claim that stands.
-- A connection that began before that of the stored claim is refused. The same connection is answered the same again, since the
-- answer before may be lost: `former` is what it said. Else, and if the caller has had a later epoch for it at a Redis that is gone, the
-- epoch is later than every one that Redis or the caller knows, and not earlier than the connection's beginning. It is not the time
-- of the claim: an older connection that claims again because Redis has lost its claim would be ahead of the records of a younger
-- one that waits for its own. Another gateway that had the vehicle
-- is told, whether or not the caller hears the answer.
local vin, node, boot, conn, age, since, known, channel = unpack(ARGV)
since = tonumber(since) or now - tonumber(age)
local c = redis.call('HMGET', KEYS[2], 'node', 'boot', 'conn', 'epoch', 'since', 'session', 'event', 'at', 'former')
local stored, began = tonumber(c[4] or '0'), tonumber(c[5] or '0')
local mine = c[1] == node and c[2] == boot and c[3] == conn
local former = {c[1] or '', c[2] or '', c[3] or '', text(stored)}
if c[1] and not mine and since < began then
  return answer('older', text(stored), text(began), unpack(former))
end
local epoch = stored
if mine then
  since = began
  if c[9] then former = {string.match(c[9], '^(%S+) (%S+) (%S+) (%S+)$')} end
end
if not mine or tonumber(known) > stored then
  epoch = math.max(math.max(tonumber(known), stored) + 1, since)
  redis.call('HSET', KEYS[2], 'node', node, 'boot', boot, 'conn', conn, 'epoch', text(epoch), 'since', text(since), 'claimed', text(now))
  redis.call('HDEL', KEYS[2], 'event', 'at', 'reason') -- of the session before
  if c[1] and not mine then redis.call('HSET', KEYS[2], 'former', table.concat(former, ' ')) end
  redis.call('HSET', KEYS[3], vin .. '/' .. text(epoch), boot .. ' ' .. node)
  if c[1] and c[1] ~= node then
    redis.call('PUBLISH', channel .. c[1], 'taken ' .. text(epoch) .. ' ' .. text(since) .. ' ' .. vin)
  end
end
return answer('ok', text(epoch), text(since), former[1], former[2], former[3], former[4], c[6] or '', c[7] == 'disconnected' and c[8] or '')
