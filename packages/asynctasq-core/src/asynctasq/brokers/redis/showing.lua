-- Showing messages that are not dead; put before the scripts that do, and after lines.lua.
--
-- A reply ends with six texts for each message: id, body, state, how often it was delivered, the time in
-- ms at which it is due or '', and the consumer that has it or ''.

local reply, shown = {}, 0

local function show(id, body, state, deliveries, due, consumer)
  for _, text in ipairs({id, body, state, deliveries, due or '', consumer or ''}) do
    reply[#reply + 1] = text
  end
  shown = shown + 1
  budget = budget - #body
end

-- Show what stands in an entry of a stream; the entry that wakes a consumer is no message.
local function show_entry(fields, state, deliveries, consumer)
  if fields and fields[1] == 'id' and fields[4] then
    show(fields[2], fields[4], state, earlier(fields[6] or '') + deliveries, '', consumer)
  end
end

-- Show what is leased or was given back, by an entry of the pending list.
local function show_lease(stream, lease)
  local is_back = lease[2] == RELEASED
  local found = redis.call('XRANGE', stream, lease[1], lease[1])[1]
  show_entry(
    found and found[2], is_back and 'waiting' or 'running', lease[4], is_back and '' or lease[2])
end

-- Show what is delayed, or was until now.
local function show_delayed(bodies, member, due, now)
  local body, extra = redis.call('HGET', bodies, member), ''
  if not body then
    return
  end
  if is_marked(member) then
    extra, body = from_record(body)
  end
  local is_later = tonumber(due) > now
  show(id_of(member), body, is_later and 'delayed' or 'waiting', earlier(extra), is_later and due or '')
end

-- Show what waits to be let pass; not what has a line, if only those without are meant.
local function show_standing(bodies, id, without_line)
  local record = redis.call('HGET', bodies, MARKED .. id)
  if record then
    local extra, body = from_record(record)
    if not (without_line and asked(extra).has_line) then
      show(id, body, 'waiting', earlier(extra))
    end
  end
end
