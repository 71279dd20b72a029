-- How many messages each consumer of a queue holds.
--
-- KEYS[1] stream, KEYS[2] admitted (as in lines.lua)
-- Returns {consumer, number, ...}.

local reply = {}
for _, stream in ipairs(KEYS) do
  for _, consumer in ipairs(consumers(stream) or {}) do
    reply[#reply + 1] = consumer.name
    reply[#reply + 1] = consumer.pending
  end
end
return reply
