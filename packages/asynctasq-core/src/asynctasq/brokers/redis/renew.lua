-- Renews the leases of those entries that the consumer still holds.
--
-- KEYS[1] stream
-- ARGV[1] consumer
-- ARGV[2] first, ARGV[3] last   enclose the entries
-- ARGV[4...]                    entries (at most 1000)
-- Returns the entries that it no longer holds.

local stream, consumer = KEYS[1], ARGV[1]
local entries = {unpack(ARGV, 4)}
local deliveries = held(stream, consumer, entries, ARGV[2], ARGV[3])
local kept, lost = {}, {}
for _, entry in ipairs(entries) do
  local list = deliveries[entry] and kept or lost
  list[#list + 1] = entry
end
if #kept > 0 then
  kept[#kept + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, GROUP, consumer, 0, unpack(kept))
end
return lost
