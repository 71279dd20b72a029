-- All values of a kind.
--
-- KEYS[1] values   hash: name -> value (as in remembering.lua)
-- Returns {name, value, ...}.

local fields, now, found = redis.call('HGETALL', KEYS[1]), now_ms(), {}
for i = 1, #fields, 2 do
  local value = unexpired(fields[i + 1], now)
  if value then
    found[#found + 1] = fields[i]
    found[#found + 1] = value
  end
end
return found
