-- Finds dead letters by id.
--
-- KEYS[1] dead, KEYS[2] letters (as in settle.lua)
-- ARGV    message ids (at most 500)
-- Returns {number of ids looked at (at least one), id, time in ms, letter, ...}.

local times, time_of = redis.call('ZMSCORE', KEYS[1], unpack(ARGV)), {}
for i, id in ipairs(ARGV) do
  time_of[id] = times[i]
end
local reply = {0}
reply[1] = in_pages(ARGV, function(ids)
  return add_letters(reply, KEYS[2], ids, time_of)
end)
return reply
