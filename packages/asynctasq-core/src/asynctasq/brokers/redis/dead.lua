-- A page of dead letters, newest first.
--
-- KEYS[1] dead, KEYS[2] letters (as in settle.lua)
-- ARGV[1] first, ARGV[2] last   counted from 0
-- Returns {number of places looked at, id, time in ms, letter, ...}: fewer places than asked for if
-- letters are large, 0 at the end.

local page = redis.call('ZREVRANGE', KEYS[1], ARGV[1], ARGV[2], 'WITHSCORES')
local ids, time_of, reply = {}, {}, {0}
for i = 1, #page, 2 do
  ids[#ids + 1] = page[i]
  time_of[page[i]] = page[i + 1]
end
reply[1] = in_pages(ids, function(some)
  return add_letters(reply, KEYS[2], some, time_of)
end)
return reply
