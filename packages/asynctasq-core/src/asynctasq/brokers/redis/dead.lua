-- A page of dead letters, newest first.
--
-- KEYS[1] dead, KEYS[2] letters (as in settle.lua)
-- ARGV[1] first, ARGV[2] last   counted from 0
-- Returns {id, time in ms, letter, ...}.

local page = redis.call('ZREVRANGE', KEYS[1], ARGV[1], ARGV[2], 'WITHSCORES')
local ids, reply = {}, {}
for i = 1, #page, 2 do
  ids[#ids + 1] = page[i]
end
if #ids == 0 then
  return reply
end
for i, letter in ipairs(redis.call('HMGET', KEYS[2], unpack(ids))) do
  if letter then
    reply[#reply + 1] = page[2 * i - 1]
    reply[#reply + 1] = page[2 * i]
    reply[#reply + 1] = letter
  end
end
return reply
