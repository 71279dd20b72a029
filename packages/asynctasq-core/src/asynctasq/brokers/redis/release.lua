-- Let go of everything leased to a worker, and remove its consumers.
--
-- KEYS[1] stream
-- ARGV[1] worker id   its consumers are named `<worker id>~<lease in ms>`
-- ARGV[2] taken back  '1': these deliveries do not count, '0': they do
-- Returns how many messages were released.

local stream, prefix, taken_back = KEYS[1], ARGV[1] .. '~', tonumber(ARGV[2])
local released = 0
for _, consumer in ipairs(consumers(stream) or {}) do
  if string.sub(consumer.name, 1, #prefix) == prefix then
    released = released + release_all(stream, consumer.name, taken_back)
    -- Deleting a consumer drops its pending entries for ever; here it has none left.
    redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer.name)
  end
end
return released
