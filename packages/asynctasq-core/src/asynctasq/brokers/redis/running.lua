-- How many messages each consumer of a queue holds.
--
-- KEYS[1] stream
-- Returns {consumer, number, ...}.

local reply = {}
for _, consumer in ipairs(consumers(KEYS[1]) or {}) do
  reply[#reply + 1] = consumer.name
  reply[#reply + 1] = consumer.pending
end
return reply
