-- Move dead letters back to waiting.
--
-- KEYS[1] stream, KEYS[2] ids, KEYS[3] dead, KEYS[4] letters (as in settle.lua)
-- ARGV    for each letter: message id, body (at most 500)
-- Returns how many there were.

local stream, ids, dead, letters = unpack(KEYS)
local names = {}
for i = 1, #ARGV, 2 do
  names[#names + 1] = ARGV[i]
end
local times = redis.call('ZMSCORE', dead, unpack(names))
local found, bodies, places = {}, {}, {}
for i, id in ipairs(names) do
  if times[i] and not bodies[id] then
    found[#found + 1] = id
    bodies[id] = ARGV[2 * i]
  end
end
if #found == 0 then
  return 0
end
redis.call('ZREM', dead, unpack(found))
redis.call('HDEL', letters, unpack(found))
for _, id in ipairs(found) do
  places[#places + 1] = id
  places[#places + 1] = redis.call('XADD', stream, '*', 'id', id, 'body', bodies[id])
end
redis.call('HSET', ids, unpack(places))
return #found
