-- Whether a queue holds nothing but dead letters and paused messages.
--
-- KEYS[1] stream, KEYS[2] delayed (as in put.lua); further ones in lines.lua and pausing.lua
-- Returns 1 or 0.

local stream, delayed = unpack(KEYS)
if fence_of(stream) and is_held(stream) then
  local admitted = lines_of(stream).admitted
  return running_of(stream) + running_of(admitted) == 0 and 1 or 0
end
local later = redis.call('ZCOUNT', delayed, '-inf', string.format('(%.0f', PARKED))
return redis.call('XLEN', stream) + later == 0 and 1 or 0
