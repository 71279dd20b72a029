-- Make due messages ready, take over what was released or whose lease has run out, create groups that
-- are missing, and lease new messages: earlier queues first, without blocking.
--
-- KEYS    for each queue: stream, ids, delayed, bodies (as in put.lua)
-- ARGV[1] consumer   `<worker id>~<lease in ms>`
-- ARGV[2] limit      most messages to lease; 0 leases none
-- Returns {ms until the next delayed message is due or -1, {indices from 0 of queues that hold keys of
-- another type, left as they are}, {queue index from 0, claimed entries, their delivery counts, new
-- entries}, ...}.

local PAGE = 500
local FORGET_CONSUMER_AFTER_MS = 3600 * 1000
-- Larger numbers lose their last digits on the way back to the server.
local LONGEST_LEASE_MS = 1e12

local consumer, room = ARGV[1], math.min(tonumber(ARGV[2]), 1000)

-- Removing comes first: with memory exhausted Redis refuses the first write of a script if it can
-- grow memory, and a queue that cannot be emptied would keep memory exhausted.
local function promote(now, stream, ids, delayed, bodies)
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, PAGE)
  if #due == 0 then
    return
  end
  local found = redis.call('HMGET', bodies, unpack(due))
  redis.call('ZREM', delayed, unpack(due))
  redis.call('HDEL', bodies, unpack(due))
  local places = {}
  for i, id in ipairs(due) do
    if found[i] then
      places[#places + 1] = id
      places[#places + 1] = redis.call('XADD', stream, '*', 'id', id, 'body', found[i])
    end
  end
  if #places > 0 then
    redis.call('HSET', ids, unpack(places))
  end
end

-- Leases by consumer name in ms, the shortest of those that hold anything, and whether anything is
-- released. Creates a missing group.
local function leases(stream)
  local found, shortest, released = {}, nil, false
  local others = consumers(stream)
  if not others then
    -- A write that removes nothing comes before this one, too.
    redis.call('XDEL', stream, '0-1')
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    others = {}
  end
  for _, other in ipairs(others) do
    local lease = tonumber(string.match(other.name, '~(%d+)$'))
    if other.name == RELEASED then
      released = other.pending > 0
    elseif other.pending > 0 then
      lease = math.min(lease or 0, LONGEST_LEASE_MS)
      found[other.name] = lease
      shortest = math.min(shortest or lease, lease)
    elseif other.idle > FORGET_CONSUMER_AFTER_MS and other.name ~= consumer then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, other.name)
    end
  end
  return found, shortest, released
end

-- Entries that anybody may take over, oldest first of each kind: those released, those expired.
local function unowned(stream, most)
  local lease_of, shortest, released = leases(stream)
  local entries, deliveries = {}, {}
  local function add(entry)
    entries[#entries + 1] = entry[1]
    deliveries[entry[1]] = entry[4]
  end
  if released and most > 0 then
    for _, entry in ipairs(pending(stream, '-', '+', most, RELEASED)) do
      add(entry)
    end
  end
  local first = '-'
  while shortest and #entries < most do
    local page = redis.call('XPENDING', stream, GROUP, 'IDLE', shortest, first, '+', PAGE)
    for _, entry in ipairs(page) do
      local lease = lease_of[entry[2]]
      if lease and entry[3] >= lease and #entries < most then
        add(entry)
      end
    end
    if #page < PAGE then
      break
    end
    first = '(' .. page[#page][1]
  end
  return entries, deliveries
end

-- Take over what is unowned: the stream's entries, and how often each has been delivered now.
local function claim(stream, most)
  local entries, deliveries = unowned(stream, most)
  if #entries == 0 then
    return {}, {}
  end
  local claimed, counts, gone = {}, {}, {}
  for _, entry in ipairs(redis.call('XCLAIM', stream, GROUP, consumer, 0, unpack(entries))) do
    if entry and entry[2] then
      claimed[#claimed + 1] = entry
      counts[#counts + 1] = deliveries[entry[1]] + 1
      deliveries[entry[1]] = nil
    end
  end
  for entry in pairs(deliveries) do
    gone[#gone + 1] = entry
  end
  if #gone > 0 then
    redis.call('XACK', stream, GROUP, unpack(gone))
  end
  return claimed, counts
end

local now, next_due_ms = now_ms(), -1
local spoilt = {}
local reply = {next_due_ms, spoilt}

local function look_after(index, stream, ids, delayed, bodies)
  promote(now, stream, ids, delayed, bodies)
  local nearest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  if nearest and (next_due_ms < 0 or nearest - now < next_due_ms) then
    next_due_ms = math.max(0, nearest - now)
  end
  local claimed, counts = claim(stream, room)
  local new = {}
  room = room - #claimed
  if room > 0 then
    local read = redis.call(
      'XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', room, 'STREAMS', stream, '>')
    if read then
      new = read[1][2]
      room = room - #new
    end
  end
  if #claimed + #new > 0 then
    reply[#reply + 1] = {index, claimed, counts, new}
  end
end

for i = 1, #KEYS, 4 do
  local index = (i - 1) / 4
  if is_sound(unpack(KEYS, i, i + 3)) then
    look_after(index, unpack(KEYS, i, i + 3))
  else
    spoilt[#spoilt + 1] = index
  end
end
reply[1] = next_due_ms
return reply
