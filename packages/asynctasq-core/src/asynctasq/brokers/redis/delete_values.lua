-- Deletes some values of a kind.
--
-- KEYS[1] values   hash: name -> value (as in remembering.lua)
-- ARGV[1] most
-- Returns how many were deleted.

local names = redis.call('HRANDFIELD', KEYS[1], tonumber(ARGV[1]))
return #names > 0 and redis.call('HDEL', KEYS[1], unpack(names)) or 0
