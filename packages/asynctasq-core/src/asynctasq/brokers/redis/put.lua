-- Add messages to a queue; one that the queue holds already is left as it is.
--
-- KEYS[1] stream    ready and running messages, fields `id` and `body` (and `extra`, see lease.lua)
-- KEYS[2] ids       hash: message id -> its stream entry, 'delayed' or 'dead'
-- KEYS[3] delayed   sorted set: message id by the time in ms at which it is due
-- KEYS[4] bodies    hash: message id -> body of a delayed message
-- ARGV    for each message: id, body, due time in ms or '' for at once (at most 500 messages)
-- Returns how many were added.

local stream, ids, delayed, bodies = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local names = {}
for i = 1, #ARGV, 3 do
  names[#names + 1] = ARGV[i]
end
local known = redis.call('HMGET', ids, unpack(names))

local places, due, delayed_bodies, seen = {}, {}, {}, {}
for i, id in ipairs(names) do
  if not known[i] and not seen[id] then
    seen[id] = true
    local body, at = ARGV[3 * i - 1], ARGV[3 * i]
    places[#places + 1] = id
    if at == '' then
      places[#places + 1] = redis.call('XADD', stream, '*', 'id', id, 'body', body)
    else
      places[#places + 1] = 'delayed'
      due[#due + 1] = at
      due[#due + 1] = id
      delayed_bodies[#delayed_bodies + 1] = id
      delayed_bodies[#delayed_bodies + 1] = body
    end
  end
end
if #due > 0 then
  redis.call('ZADD', delayed, unpack(due))
  redis.call('HSET', bodies, unpack(delayed_bodies))
end
if #places > 0 then
  redis.call('HSET', ids, unpack(places))
end
return #places / 2
