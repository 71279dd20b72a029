-- Some of the values of a kind. Those that are there all the time come at least once.
--
-- KEYS[1] values   hash: name -> value (as in remembering.lua)
-- ARGV[1] where to go on: '0', or what the last call returned
-- Returns {where to go on, '0' at the end, name, value, ...}.

local scanned = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 500)
local fields, now, found = scanned[2], now_ms(), {scanned[1]}
for i = 1, #fields, 2 do
  local value = unexpired(fields[i + 1], now)
  if value then
    found[#found + 1] = fields[i]
    found[#found + 1] = value
  end
end
return found
