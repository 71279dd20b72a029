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
return {
  redis.call('XLEN', KEYS[1]) - running, running,
  redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]),
}
