-- Makes due messages ready, takes over messages that were released or whose lease has expired, creates
-- missing groups, and leases new messages: earlier queues first, without blocking.
--
-- Looking for expired leases walks through all leases of the queue, so only the first sweep after it is
-- time does so: a quarter of the shortest lease after the last look, or when a worker that has long
-- been silent will have lost its lease.
--
-- KEYS    for each queue: stream, ids, delayed, bodies (as in put.lua), look (string: time in ms
--         before which no one need look for expired leases); further ones in lines.lua
-- ARGV[1] consumer   `<worker id>~<lease in ms>`
-- ARGV[2] limit      maximum number of messages to lease; 0 leases none
-- Returns {ms until the next sweep is worthwhile or -1, {indices from 0 of queues that hold keys of
-- another type, left as they are}, {queue index from 0, claimed entries, their delivery counts, new
-- entries}, ...}. A queue whose messages ask for something (see lines.lua) may have several such parts,
-- each with a fifth element: 1 if its new entries are in `admitted`, else 0. A queue that has pauses
-- (see pausing.lua) first has the part {queue index, its last entry, {name, pause, ...}}.

local PAGE = 500
local MOST_DUE = 200
local FORGET_CONSUMER_AFTER_MS = 3600 * 1000
-- Larger numbers would lose their last digits on the way back to the server.
local LONGEST_LEASE_MS = 1e12
local BRIEFEST_LOOK_MS = 50
-- Maximum open messages that one call judges.
local MOST_JUDGED = 500

local consumer, room = ARGV[1], math.min(tonumber(ARGV[2]), 250)
local own_lease = math.min(tonumber(string.match(ARGV[1], '~(%d+)$')), LONGEST_LEASE_MS)

-- Make due messages ready. Returns whether more are due, whether messages in the queue ask for
-- something, and their lines, or nil while keys of these hold another type; such messages wait until
-- that is repaired. Remove first: when memory is exhausted, Redis refuses a script whose first write
-- could grow memory, and a queue that cannot be emptied would keep memory exhausted.
local function promote(now, stream, ids, delayed, bodies)
  local found = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, MOST_DUE)
  local due, are_asking, lines = {}, false, nil
  for _, member in ipairs(found) do
    if is_marked(member) and not are_asking then
      are_asking, lines = true, lines_of(stream, ids, delayed, bodies)
      lines = lines_are_sound(lines) and lines or nil
    end
    if member ~= MARKED and (lines or not is_marked(member)) then
      due[#due + 1] = member
    end
  end
  -- A resumed message is due at its serial number (see resume.lua), and goes first in its line.
  local resumed = lines and redis.call('ZCOUNT', delayed, '(0', PARKED_OF_ONE) or 0
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
        if is_asking(extra) then
          bytes = bytes + STEP_BYTES
          local ask, rank = asked(extra), resumed > 0 and 0 or 1
          enter(lines, id_of(member), ask, extra, body, new_order(lines, ask, rank, now * rank, 0))
        else
          places[#places + 1] = id_of(member)
          places[#places + 1] = add(stream, id_of(member), body, extra)
        end
      end
      resumed = resumed - 1
    end
    if #places > 0 then
      redis.call('HSET', ids, unpack(places))
    end
    return bytes
  end)
  return moved < #due or #found == MOST_DUE, are_asking, lines
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
  -- First a write that removes nothing, for the reason given above.
  redis.call('XDEL', stream, '0-1')
  redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  return {}
end

local function is_time_to_look(now, look)
  local text = redis.pcall('GET', look)
  local at = type(text) == 'string' and tonumber(text) or 0
  -- Whoever set it may have known only longer leases than ours.
  return not (at > now and at - now <= own_lease / 4)
end

-- Leases in ms by consumer name, the shortest of them, and ms until the next look is worthwhile.
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

-- Entries whose lease has expired, oldest first.
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

-- Entries that anyone may take over.
local function unowned(now, stream, look, most)
  local entries = released(stream, most)
  if #entries < most and is_time_to_look(now, look) then
    for _, entry in ipairs(expired(now, stream, look, most - #entries)) do
      entries[#entries + 1] = entry
    end
  end
  return entries
end

-- Take over unowned entries; returns them, how often each has now been delivered, and whether there
-- were more than this call may move.
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

local function reply_with(index, claimed, counts, new, admitted)
  room = room - #claimed - #new
  if #claimed + #new > 0 or admitted then
    reply[#reply + 1] = {index, claimed, counts, new, admitted}
  end
end

-- Put back messages that were released or whose lease expired.
local function take_back(lines)
  for _, entry in ipairs(unowned(now, lines.admitted, lines.look, MOST_DUE)) do
    local found = budget > 0 and redis.call('XRANGE', lines.admitted, entry[1], entry[1])[1]
    if found then
      budget = budget - STEP_BYTES - size_of(found)
      give_back(lines, entry[1], found[2], entry[4])
    elseif found == nil then
      redis.call('XACK', lines.admitted, GROUP, entry[1])
    end
  end
end

-- A function that returns the first unread entries, up to a number.
local function first_unread(stream)
  local read = last_read(stream) or '0-0'
  if read == FENCE then  -- others have deleted the fence
    lift(stream)
    read = last_read(stream)
  end
  local after = read == '0-0' and '-' or '(' .. read
  return function(most)
    return redis.call('XRANGE', stream, after, '+', 'COUNT', most)
  end
end

-- The place of an unread stream entry, in the form it has in an order; nil without an entry.
local function place_of(entry)
  if not entry then
    return nil
  end
  local ms, number = string.match(entry[1], '^(%d+)-(%d+)$')
  return string.format('%013.0f%06.0f', tonumber(ms), math.min(tonumber(number), 999999))
end

-- Whether an open message goes before the entry with this place.
local function goes_before(order, place)
  if not place then
    return true
  end
  local priority = string.sub(order, 1, 3)
  return priority < PRIORITY_0 or (priority == PRIORITY_0 and string.sub(order, 19, 37) < place)
end

local judged = 0

-- Admit open messages in order, as long as they go before this entry.
local function admit_some(index, lines, before)
  local limit_place = place_of(before)
  local admission = new_admission(lines, now)
  local places, records, entries, claimed = {}, {}, {}, {}
  while #records < room and judged < MOST_JUDGED and budget > 0 do
    local head = admission:head(room - #records)
    if not head or not goes_before(head, limit_place) then
      break
    end
    judged = judged + 1
    budget = budget - STEP_BYTES / 2  -- half the price: most of the work is done for all at once
    local entry = admission:admit(head)
    if entry then
      local id = entry[2][2]
      places[#places + 1] = id
      places[#places + 1] = '*' .. entry[1]
      records[#records + 1] = MARKED .. id
      entries[#entries + 1] = entry
      claimed[#claimed + 1] = entry[1]
    end
  end
  admission:write()
  if #records > 0 then
    redis.call('HDEL', lines.bodies, unpack(records))
    redis.call('HSET', lines.ids, unpack(places))
    -- Claim them as if the consumer had read them; reading would cost more, and they are here already.
    for _, word in ipairs({'RETRYCOUNT', 1, 'FORCE', 'JUSTID'}) do
      claimed[#claimed + 1] = word
    end
    redis.call('XCLAIM', lines.admitted, GROUP, consumer, 0, unpack(claimed))
    reply_with(index, {}, {}, entries, 1)
  end
end

-- Lease the queue's messages in order of priority, then of arrival; the ids of stream entries tell
-- when they arrived.
local function lease_asking(index, lines, stream, look)
  -- First a write that removes nothing, as above.
  redis.call('XDEL', stream, '0-1')
  take_back(lines)
  drop_wake_up(lines)
  pass_time(lines, now)
  admit_some(index, lines, {'0-0'})
  local claimed, counts, more = claim(now, stream, look, room)
  reply_with(index, claimed, counts, {}, 0)
  local unread = first_unread(stream)
  while room > 0 and budget > 0 and judged < MOST_JUDGED do
    local head = first_open(lines)[1]
    local entries, count = unread(8), 0
    while entries[count + 1] and not (head and goes_before(head, place_of(entries[count + 1]))) do
      count = count + 1
    end
    local left = room
    if count > 0 then
      reply_with(index, {}, {}, read_new(stream, consumer, math.min(room, count)), 0)
      unread = first_unread(stream)
    else
      admit_some(index, lines, entries[1])
    end
    if room == left and (count > 0 or first_open(lines)[1] == head) then
      break
    end
  end
  look_again(lines, now)
  return more
end

-- Release expired leases of a queue that is on hold.
local function let_go(stream, look)
  if is_time_to_look(now, look) then
    for _, entry in ipairs(expired(now, stream, look, MOST_DUE)) do
      release(stream, entry[1], entry[4])
    end
  end
end

-- Tell the consumer about a queue's pauses, and lift the queue's fence for the rest of this sweep; returns
-- false if the pauses' key holds another type.
local function tell_pauses(index, stream)
  local fields, pauses = redis.pcall('HGETALL', pauses_key(stream)), {}
  if fields.err then
    return false
  end
  for i = 1, #fields, 2 do
    pauses[i], pauses[i + 1] = fields[i], unexpired(fields[i + 1], now) or ''
  end
  lift(stream)
  local info, last = redis.call('XINFO', 'STREAM', stream), '0-0'
  for i = 1, #info, 2 do
    last = info[i] == 'last-generated-id' and info[i + 1] or last
  end
  reply[#reply + 1] = {index, last, pauses}
  return true
end

local function look_after(index, stream, ids, delayed, bodies, look)
  local at, waking = fence_of(stream)
  local is_fenced = at ~= nil
  local number = waking and tonumber(string.match(waking, '^(%d+),'))
  if number and number <= 2 ^ 24 then
    wake(stream, delayed, number, MOST_DUE)
  elseif waking then
    redis.call('HDEL', fence_key(stream), 'waking')  -- not written by us
  end
  local all_room, held = room, false
  if is_fenced then
    if not tell_pauses(index, stream) then
      spoilt[#spoilt + 1] = index
      return
    end
    held = is_held(stream)
    room = held and 0 or room
  end
  local nearest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  local are_asking, more, lines = false, false, nil
  if nearest and tonumber(nearest) <= now then
    more, are_asking, lines = promote(now, stream, ids, delayed, bodies)
  end
  if are_asking and not lines then
    spoilt[#spoilt + 1] = index
    return
  elseif are_asking then
    more = lease_asking(index, lines, stream, look) or more
  else
    local claimed, counts, more_unowned = claim(now, stream, look, room)
    more = more or more_unowned
    reply_with(index, claimed, counts, read_new(stream, consumer, room - #claimed))
  end
  if nearest and tonumber(nearest) <= now then
    nearest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  end
  if nearest and not held and (next_ms < 0 or nearest - now < next_ms) then
    next_ms = math.max(0, nearest - now)
  end
  if more and not held then
    next_ms = 0
  end
  if held then
    let_go(stream, look)
    room = all_room
  end
  if is_fenced then
    fence(stream)
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
