-- One value.
--
-- KEYS[1] values   hash: name -> value (as in remembering.lua)
-- ARGV[1] name
-- Returns the value; nil if there is none.

return unexpired(redis.call('HGET', KEYS[1], ARGV[1]), now_ms())
