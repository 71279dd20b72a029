-- Replaces a value and puts messages, if the current value is the expected one.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua)
-- KEYS[5]    values   hash: name -> value (as in remembering.lua)
-- ARGV[1] name
-- ARGV[2] '1' to set a value, '0' to delete the current one
-- ARGV[3] value
-- ARGV[4] '1' if a value is expected, '0' if none is
-- ARGV[5] expected value
-- ARGV[6] '1' if some of the messages ask for something, else '0'
-- ARGV[7] '1' to wake those who wait for a change, through the channel `values:name`
-- ARGV[8...] messages (as in put.lua, or in put_asking.lua)
-- Returns 1 if the current value was the expected one, else 0.

local values, name, now = KEYS[5], ARGV[1], now_ms()
local value = unexpired(redis.call('HGET', values, name), now)
if value ~= (ARGV[4] == '1' and ARGV[5] or nil) then
  return 0
end
local is_asking_put = ARGV[6] == '1'
if is_asking_put and not may_put_asking(unpack(KEYS, 1, 4)) then
  return redis.error_reply('WRONGTYPE a key of the queue holds another type')
end
if ARGV[2] == '1' then
  keep_value(values, name, ARGV[3], 0, now)
else
  redis.call('HDEL', values, name)
end
if is_asking_put then
  put_asking(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV, 8)
elseif #ARGV > 7 then
  put(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV, 8)
end
if ARGV[7] == '1' then
  redis.call('PUBLISH', values .. ':' .. name, '')
end
return 1
