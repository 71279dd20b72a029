-- A message's state. A due message counts as waiting even before a sweep has moved it.
--
-- KEYS[1..3] stream, ids, delayed (as in put.lua)
-- ARGV[1] message id
-- Returns 'waiting', 'running', 'delayed', 'dead' or nil.

local id = ARGV[1]
local state = locate(KEYS[1], KEYS[2], id)
if state == 'delayed' then
  local due = redis.call('ZSCORE', KEYS[3], id) or redis.call('ZSCORE', KEYS[3], MARKED .. id)
  if due and tonumber(due) <= now_ms() then
    return 'waiting'
  end
end
return state
