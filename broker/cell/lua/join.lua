-- join: registers a member. At a server that is not open yet it says that the caller's offers are in, and opens when
-- everybody's are.
-- KEYS: mark
-- ARGV: node; 1 if the caller remembers what it has done, else 0; generation and floor that it remembers; the server that its
-- offers were answered by; 1 to begin a cell of which nobody knows anything; then the members that it remembers
-- Answer: ok | waiting | moved: the offers went to another server | empty: nobody is registered, and the caller remembers
-- nothing; then generation, floor, and the members: node and 1 if its offers are in, else 0
-- What is not known to have been sent may have been, if it was accepted before `doubt`: `floor` is the generation from which
-- on no memory is missing, and becomes doubt at an opening.
local node, remembers, known, low, landed, begins = unpack(ARGV, 1, 6)
remembers = remembers == '1'

local registered = members()
if #registered == 0 and not remembers and begins ~= '1' then return answer('empty', '0', '0') end
local me = 'm:' .. node
local elsewhere = remembers and landed ~= server
local offered = redis.call('HGET', mark, me) == server -- before: one that others have registered has not
local floor = math.max(tonumber(redis.call('HGET', mark, 'floor') or '0'), tonumber(low))
gen = math.max(gen, tonumber(known))

local function done(verdict)
  redis.call('HSET', mark, 'gen', text(gen), 'floor', text(floor))
  return answer(verdict, text(gen), text(floor), unpack(members()))
end

if open and elsewhere and not offered then return done('moved') end
redis.call('HSETNX', mark, me, '') -- before its offers are in, too: nobody opens without them
redis.call('HDEL', mark, 'x:' .. node)
for i = 7, #ARGV do remember(ARGV[i]) end
if not open and elsewhere then return done('moved') end
if open then
  redis.call('HSET', mark, me, server)
  if not remembers then
    gen = gen + 1
    floor = gen
  end
  return done('ok')
end
if not remembers then redis.call('HSET', mark, 'fresh', '1') end
redis.call('HSET', mark, me, server)
registered = members()
for i = 2, #registered, 2 do
  if registered[i] == '0' then return done('waiting') end
end
gen = gen + 1
if redis.call('HDEL', mark, 'fresh') == 1 then floor = gen end
redis.call('HSET', mark, 'open', server, 'doubt', text(math.max(doubt, floor)))
return done('ok')
