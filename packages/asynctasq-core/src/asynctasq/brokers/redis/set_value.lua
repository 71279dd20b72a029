-- Keep a value, or delete it.
--
-- KEYS[1] values   hash: name -> value (as in remembering.lua)
-- ARGV[1] name
-- ARGV[2] '1' if there is a value, '0' to delete the one there
-- ARGV[3] value
-- ARGV[4] ms to keep it for; 0 for ever

if ARGV[2] == '1' then
  keep_value(KEYS[1], ARGV[1], ARGV[3], tonumber(ARGV[4]), now_ms())
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
