-- Moves dead letters back to waiting.
--
-- KEYS[1..6] stream, ids, delayed, bodies, dead, letters (as in settle.lua); further ones in lines.lua
-- ARGV    for each letter: message id, body (at most 500)
-- Returns how many were moved.

local stream, ids, delayed, bodies_key, dead, letters = unpack(KEYS)
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
local earlier_places = redis.call('HMGET', ids, unpack(found))
redis.call('ZREM', dead, unpack(found))
redis.call('HDEL', letters, unpack(found))
local lines, now = lines_of(stream, ids, delayed, bodies_key), now_ms()
local are_asking = false
for i, id in ipairs(found) do
  local text = string.match(earlier_places[i] or '', '^dead' .. MARKED .. '(.+)$')
  if text then
    are_asking = true
    local extra = to_asking(0, false, text)
    local ask = asked(extra)
    enter(lines, id, ask, extra, bodies[id], new_order(lines, ask, 1, now, 0))
  else
    places[#places + 1] = id
    places[#places + 1] = redis.call('XADD', stream, '*', 'id', id, 'body', bodies[id])
  end
end
if #places > 0 then
  redis.call('HSET', ids, unpack(places))
end
if are_asking then
  look_again(lines, now)
end
return #found
