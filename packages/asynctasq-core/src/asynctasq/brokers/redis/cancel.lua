-- Removes a message that is waiting or delayed.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua); further ones in lines.lua
-- KEYS[5]    key of its result
-- ARGV[1] message id
-- ARGV[2] '1' to keep a result
-- ARGV[3] result
-- ARGV[4] its lifetime in ms
-- Returns 1 if it was removed, else 0.

local stream, ids, delayed, bodies, result_key = unpack(KEYS)
local id = ARGV[1]
local state, place = locate(stream, ids, id)
if state ~= 'delayed' and state ~= 'waiting' then
  return 0
end
if is_asking_place(place) then
  local lines = lines_of(stream, ids, delayed, bodies)
  remove_asking(lines, id, place)
  look_again(lines, now_ms())
elseif state == 'delayed' then
  redis.call('ZREM', delayed, id, MARKED .. id)
  redis.call('HDEL', bodies, id, MARKED .. id)
else
  redis.pcall('XACK', stream, GROUP, place)
  redis.call('XDEL', stream, place)
end
redis.call('HDEL', ids, id)
if ARGV[2] == '1' then
  keep_result(result_key, ARGV[3], ARGV[4])
end
return 1
