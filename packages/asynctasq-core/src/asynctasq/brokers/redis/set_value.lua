-- Keeps a value, or deletes it.
--
-- KEYS[1] values   hash: name -> value (as in remembering.lua)
-- ARGV[1] name
-- ARGV[2] '1' to set a value, '0' to delete the current one
-- ARGV[3] value
-- ARGV[4] lifetime in ms; 0 for ever
-- ARGV[5] '1' to wake those who wait for a change, through the channel `values:name`

if ARGV[2] == '1' then
  keep_value(KEYS[1], ARGV[1], ARGV[3], tonumber(ARGV[4]), now_ms())
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
if ARGV[5] == '1' then
  redis.call('PUBLISH', KEYS[1] .. ':' .. ARGV[1], '')
end
