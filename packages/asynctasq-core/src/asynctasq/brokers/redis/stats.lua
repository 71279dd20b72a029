-- How many messages of a queue are in each state, at a cost that does not grow with them.
--
-- KEYS[1] stream, KEYS[2] delayed, KEYS[3] dead
-- Returns {waiting, running, delayed, dead}.

local running = 0
local summary = redis.pcall('XPENDING', KEYS[1], GROUP)
if not summary.err and summary[1] > 0 then
  running = summary[1]
  for _, consumer in ipairs(summary[4]) do
    if consumer[1] == RELEASED then
      running = running - consumer[2]
    end
  end
end

-- A key of another type holds no messages, and is not to hide the other queues.
local function count(command, key)
  local number = redis.pcall(command, key)
  return type(number) == 'number' and number or 0
end

return {
  count('XLEN', KEYS[1]) - running, running, count('ZCARD', KEYS[2]), count('ZCARD', KEYS[3]),
}
