-- Deletes dead letters.
--
-- KEYS[1] ids, KEYS[2] dead, KEYS[3] letters (as in settle.lua)
-- ARGV    message ids (at most 100), or none for the oldest 100
-- Returns how many were deleted.

local names = ARGV
if #names == 0 then
  names = redis.call('ZRANGE', KEYS[2], 0, 99)
end
if #names == 0 then
  return 0
end
local times, found = redis.call('ZMSCORE', KEYS[2], unpack(names)), {}
for i, id in ipairs(names) do
  if times[i] then
    found[#found + 1] = id
  end
end
if #found == 0 then
  return 0
end
redis.call('HDEL', KEYS[1], unpack(found))
redis.call('HDEL', KEYS[3], unpack(found))
return redis.call('ZREM', KEYS[2], unpack(found))
