-- How many of a queue's messages are in each state, at a cost that does not grow with their number.
--
-- KEYS[1] stream, KEYS[2] delayed, KEYS[3] dead, KEYS[4] bodies, KEYS[5] ids; further ones in lines.lua
-- Returns {waiting, running, delayed, dead}.

local stream, delayed, bodies, ids = KEYS[1], KEYS[2], KEYS[4], KEYS[5]

-- A key of another type holds no messages, and must not hide the other queues.
local function count(command, ...)
  local number = redis.pcall(command, ...)
  return type(number) == 'number' and number or 0
end

local running = running_of(stream)
local waiting, later = count('XLEN', stream) - running, count('ZCARD', delayed)
local look = redis.pcall('ZSCORE', delayed, MARKED)
if type(look) == 'string' then
  local lines = lines_of(stream, ids, delayed, bodies)
  local let_pass = running_of(lines.admitted)
  later = later - 1
  waiting = waiting - count('HEXISTS', ids, MARKED) + count('XLEN', lines.admitted) - let_pass
    + count('HLEN', bodies) - later
  running = running + let_pass
end
return {waiting, running, later, count('ZCARD', KEYS[3])}
