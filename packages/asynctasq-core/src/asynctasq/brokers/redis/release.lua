-- Releases what is leased to a worker and removes its consumers; call again until it returns fewer than
-- asked for.
--
-- KEYS[1] stream
-- ARGV[1] worker id   its consumers are named `<worker id>~<lease in ms>`
-- ARGV[2] taken back  '1': these deliveries do not count; '0': they do
-- ARGV[3] most        maximum number of messages to release
-- Returns how many messages were released.

local stream, prefix = KEYS[1], ARGV[1] .. '~'
local taken_back, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local released = 0
for _, consumer in ipairs(consumers(stream) or {}) do
  if string.sub(consumer.name, 1, #prefix) == prefix then
    released = released + release_some(stream, consumer.name, taken_back, most - released)
    if released == most then
      break
    end
    -- Deleting a consumer drops its pending entries for ever, but here none are left.
    redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer.name)
  end
end
return released
