-- Shows messages that are not dead; loaded before the scripts that use it, after lines.lua.
--
-- A reply ends with six strings for each message: id, body, state, delivery count, the time in ms at
-- which it is due or '', and the consumer that holds it or ''.

local reply, shown = {}, 0

local function show(id, body, state, deliveries, due, consumer)
  for _, text in ipairs({id, body, state, deliveries, due or '', consumer or ''}) do
    reply[#reply + 1] = text
  end
  shown = shown + 1
  budget = budget - #body
end

-- Show the message in a stream entry; an entry that only wakes a consumer holds none.
local function show_entry(fields, state, deliveries, consumer)
  if fields and fields[1] == 'id' and fields[4] then
    show(fields[2], fields[4], state, earlier(fields[6] or '') + deliveries, '', consumer)
  end
end

-- Show a message that is leased or was given back, from its pending-list entry.
local function show_lease(stream, lease)
  local is_back = lease[2] == RELEASED
  local found = redis.call('XRANGE', stream, lease[1], lease[1])[1]
  show_entry(
    found and found[2], is_back and 'waiting' or 'running', lease[4], is_back and '' or lease[2])
end

-- Show a message that is delayed, or has just become due.
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

-- Show a message that waits to be judged; with `without_line`, only if it has no line.
local function show_standing(bodies, id, without_line)
  local record = redis.call('HGET', bodies, MARKED .. id)
  if record then
    local extra, body = from_record(record)
    if without_line and asked(extra).has_line then
      budget = budget - #record  -- read all the same
    else
      show(id, body, 'waiting', earlier(extra))
    end
  end
end
