-- Lease new messages of several queues, earlier queues first, without blocking.
--
-- KEYS    the queues' streams, fields `id` and `body`
-- ARGV[1] consumer   `<worker id>~<lease in ms>`
-- ARGV[2] limit      most messages to lease
-- Returns {{queue index from 0, entries}, ...}.

local room, reply = tonumber(ARGV[2]), {}
for i, stream in ipairs(KEYS) do
  local read = redis.call(
    'XREADGROUP', 'GROUP', GROUP, ARGV[1], 'COUNT', room, 'STREAMS', stream, '>')
  if read then
    reply[#reply + 1] = {i - 1, read[1][2]}
    room = room - #read[1][2]
    if room == 0 then
      break
    end
  end
end
return reply
