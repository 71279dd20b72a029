-- Make due messages ready, take over what was released or whose lease has run out, create groups that
-- are missing, and lease new messages: earlier queues first, without blocking.
--
-- Leases that ran out are looked for by whoever comes first when it is time, since that walks through
-- all leases of the queue: a quarter of the shortest lease after the last look, or when a worker that
-- has been silent for long will have lost its own.
--
-- KEYS    for each queue: stream, ids, delayed, bodies (as in put.lua), look (string: time in ms
--         before which nobody need look for leases that ran out)
-- ARGV[1] consumer   `<worker id>~<lease in ms>`
-- ARGV[2] limit      most messages to lease; 0 leases none
-- Returns {ms until the next sweep is worth while or -1, {indices from 0 of queues that hold keys of
-- another type, left as they are}, {queue index from 0, claimed entries, their delivery counts, new
-- entries}, ...}.

local PAGE = 500
local MOST_DUE = 200
local FORGET_CONSUMER_AFTER_MS = 3600 * 1000
-- Larger numbers lose their last digits on the way back to the server.
local LONGEST_LEASE_MS = 1e12
local BRIEFEST_LOOK_MS = 50

local consumer, room = ARGV[1], math.min(tonumber(ARGV[2]), 250)
local own_lease = math.min(tonumber(string.match(ARGV[1], '~(%d+)$')), LONGEST_LEASE_MS)

-- Make what is due ready; whether more is. Removing comes first: with memory exhausted Redis refuses
-- the first write of a script if it can grow memory, and a queue that cannot be emptied would keep
-- memory exhausted.
local function promote(now, stream, ids, delayed, bodies)
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, MOST_DUE)
  local moved = in_pages(due, function(page)
    local found = redis.call('HMGET', bodies, unpack(page))
    redis.call('ZREM', delayed, unpack(page))
    redis.call('HDEL', bodies, unpack(page))
    local places, bytes = {}, 0
    for i, member in ipairs(page) do
      if found[i] then
        bytes = bytes + #found[i]
        local extra, body = '', found[i]
        if is_marked(member) then
          extra, body = from_record(body)
        end
        places[#places + 1] = id_of(member)
        places[#places + 1] = add(stream, id_of(member), body, extra)
      end
    end
    if #places > 0 then
      redis.call('HSET', ids, unpack(places))
    end
    return bytes
  end)
  return moved < #due or #due == MOST_DUE
end

-- Entries that were given back, oldest first. Creates a missing group.
local function released(stream, most)
  local reply = redis.pcall('XPENDING', stream, GROUP, '-', '+', most, RELEASED)
  if not reply.err then
    return reply
  end
  if not string.find(reply.err, 'NOGROUP', 1, true) then
    error(reply.err)
  end
  -- A write that removes nothing comes before this one, too.
  redis.call('XDEL', stream, '0-1')
  redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  return {}
end

local function is_time_to_look(now, look)
  local text = redis.pcall('GET', look)
  local at = type(text) == 'string' and tonumber(text) or 0
  -- Whoever set it may have known of longer leases only.
  return not (at > now and at - now <= own_lease / 4)
end

-- Leases by consumer name in ms, the shortest of all, and ms until the next look is worth while.
local function leases(stream)
  local found, shortest, soonest = {}, own_lease, own_lease / 4
  for _, other in ipairs(consumers(stream) or {}) do
    local lease = math.min(tonumber(string.match(other.name, '~(%d+)$')) or 0, LONGEST_LEASE_MS)
    if other.pending > 0 and other.name ~= RELEASED then
      found[other.name] = lease
      shortest = math.min(shortest, lease)
      soonest = math.min(soonest, lease / 4, lease - other.idle)
    elseif other.idle > FORGET_CONSUMER_AFTER_MS and other.pending == 0 and other.name ~= consumer then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, other.name)
    end
  end
  return found, shortest, math.max(soonest, BRIEFEST_LOOK_MS)
end

-- Entries whose lease has run out, oldest first.
local function expired(now, stream, look, most)
  local lease_of, shortest, next_look = leases(stream)
  local entries, first = {}, '-'
  while next(lease_of) and #entries < most do
    local page = redis.call('XPENDING', stream, GROUP, 'IDLE', shortest, first, '+', PAGE)
    for _, entry in ipairs(page) do
      local lease = lease_of[entry[2]]
      if lease and entry[3] >= lease and #entries < most then
        entries[#entries + 1] = entry
      end
    end
    if #page < PAGE then
      break
    end
    first = '(' .. page[#page][1]
  end
  if #entries > 0 then
    next_look = 0  -- there may be more
  end
  redis.call('XDEL', stream, '0-1')
  redis.call('SET', look, string.format('%.0f', now + next_look))
  return entries
end

-- Entries that anybody may take over.
local function unowned(now, stream, look, most)
  local entries = released(stream, most)
  if #entries < most and is_time_to_look(now, look) then
    for _, entry in ipairs(expired(now, stream, look, most - #entries)) do
      entries[#entries + 1] = entry
    end
  end
  return entries
end

-- Take over what is unowned: the stream's entries, how often each has been delivered now, and whether
-- there was more than this call may move.
local function claim(now, stream, look, most)
  local unclaimed, deliveries = {}, {}
  for i, entry in ipairs(unowned(now, stream, look, most)) do
    unclaimed[i] = entry[1]
    deliveries[entry[1]] = entry[4]
  end
  local claimed, counts = {}, {}
  local moved = in_pages(unclaimed, function(page)
    local bytes, found = 0, {}
    for _, entry in ipairs(redis.call('XCLAIM', stream, GROUP, consumer, 0, unpack(page))) do
      if entry and entry[2] then
        bytes = bytes + size_of(entry)
        claimed[#claimed + 1] = entry
        counts[#counts + 1] = deliveries[entry[1]] + 1
        found[entry[1]] = true
      end
    end
    for _, id in ipairs(page) do
      if not found[id] then
        redis.call('XACK', stream, GROUP, id)
      end
    end
    return bytes
  end)
  return claimed, counts, most > 0 and (moved < #unclaimed or #unclaimed == most)
end

local now, next_ms = now_ms(), -1
local spoilt = {}
local reply = {next_ms, spoilt}

local function look_after(index, stream, ids, delayed, bodies, look)
  local nearest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  if nearest and tonumber(nearest) <= now then
    local more = promote(now, stream, ids, delayed, bodies)
    nearest = more and now or redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  end
  if nearest and (next_ms < 0 or nearest - now < next_ms) then
    next_ms = math.max(0, nearest - now)
  end
  local claimed, counts, more = claim(now, stream, look, room)
  room = room - #claimed
  if more then
    next_ms = 0
  end
  local new = read_new(stream, consumer, room)
  room = room - #new
  if #claimed + #new > 0 then
    reply[#reply + 1] = {index, claimed, counts, new}
  end
end

for i = 1, #KEYS, 5 do
  local index = (i - 1) / 5
  if is_sound(unpack(KEYS, i, i + 3)) then
    look_after(index, unpack(KEYS, i, i + 4))
  else
    spoilt[#spoilt + 1] = index
  end
end
reply[1] = next_ms
return reply
