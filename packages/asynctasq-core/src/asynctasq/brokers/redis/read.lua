-- Leases new messages from several queues, earlier queues first, without blocking.
--
-- KEYS    the queues' streams, fields `id` and `body`
-- ARGV[1] consumer   `<worker id>~<lease in ms>`
-- ARGV[2] limit      maximum number of messages to lease
-- Returns {{queue index from 0, entries}, ...}.

local room, reply = tonumber(ARGV[2]), {}
for i, stream in ipairs(KEYS) do
  local new = read_new(stream, ARGV[1], room)
  if #new > 0 then
    reply[#reply + 1] = {i - 1, new}
    room = room - #new
  end
end
return reply
