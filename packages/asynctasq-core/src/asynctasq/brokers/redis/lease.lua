-- Loaded before every script.
--
-- A lease is an entry in the stream's pending list: its owner is a consumer, its age is the entry's
-- idle time. A consumer is named `<worker id>~<lease in ms>`, so that any sweep can judge each entry
-- by its owner's own lease. RELEASED owns entries that were given back: anyone may take them.

local GROUP = 'workers'
local RELEASED = 'released'

-- The pending entries in a range: {{entry, consumer, idle ms, deliveries}, ...}; empty without a group.
local function pending(stream, first, last, count, consumer)
  local reply
  if consumer then
    reply = redis.pcall('XPENDING', stream, GROUP, first, last, count, consumer)
  else
    reply = redis.pcall('XPENDING', stream, GROUP, first, last, count)
  end
  if not reply.err then
    return reply
  end
  -- If the key holds another type than a stream, nothing is leased either.
  if string.find(reply.err, 'NOGROUP', 1, true) or string.find(reply.err, 'WRONGTYPE', 1, true) then
    return {}
  end
  error(reply.err)
end

-- Consumers of the group as {{name=, pending=, idle=}, ...}; nil without a group.
local function consumers(stream)
  local reply = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
  if reply.err then
    return nil
  end
  local found = {}
  for i, fields in ipairs(reply) do
    local consumer = {}
    for j = 1, #fields, 2 do
      consumer[fields[j]] = fields[j + 1]
    end
    found[i] = consumer
  end
  return found
end

-- Which of `entries` the consumer still holds: entry -> deliveries. `first` and `last` should enclose
-- them, so that one command answers for all. Entries that this may have missed are looked up alone:
-- if there are more than one command returns, or if the number of digits differs, as with a clock
-- that is centuries wrong.
local function held(stream, consumer, entries, first, last)
  local deliveries, found, most = {}, {}, 4 * #entries + 200
  if #entries > 1 then
    found = pending(stream, first, last, most, consumer)
    for _, entry in ipairs(found) do
      deliveries[entry[1]] = entry[4]
    end
  end
  local answers_all = #entries > 1 and #found < most and #first == #last
  for _, id in ipairs(entries) do
    if not deliveries[id] and not (answers_all and string.sub(id, #first + 1, #first + 1) == '-') then
      local entry = pending(stream, id, id, 1, consumer)[1]
      if entry then
        deliveries[id] = entry[4]
      end
    end
  end
  return deliveries
end

-- How many of a stream's messages are leased.
local function running_of(leased)
  local summary, running = redis.pcall('XPENDING', leased, GROUP), 0
  if not summary.err and summary[1] > 0 then
    running = summary[1]
    for _, consumer in ipairs(summary[4]) do
      if consumer[1] == RELEASED then
        running = running - consumer[2]
      end
    end
  end
  return running
end

-- The last entry that the group has read; nil without a group.
local function last_read(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, fields in ipairs(groups.err and {} or groups) do
    local group = {}
    for i = 1, #fields, 2 do
      group[fields[i]] = fields[i + 1]
    end
    if group.name == GROUP then
      return group['last-delivered-id']
    end
  end
  return nil
end

-- Whether a read of a key finds the expected type, or nothing.
local function is_of_type(look)
  local reply = redis.pcall(unpack(look))
  return not (
    type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true))
end

-- Whether a queue's keys have the expected types; a script that found another type halfway would be
-- left half applied.
local function is_sound(stream, ids, delayed, bodies)
  return is_of_type({'XLEN', stream}) and is_of_type({'HGET', ids, ''})
    and is_of_type({'ZCARD', delayed}) and is_of_type({'HGET', bodies, ''})
end

-- Give an entry to RELEASED with this delivery count; its next delivery adds one.
local function release(stream, entry, deliveries)
  redis.call('XCLAIM', stream, GROUP, RELEASED, 0, entry, 'RETRYCOUNT', deliveries, 'JUSTID')
end

-- Release up to `most` messages that the consumer holds; `taken_back` is 1 to not count their
-- deliveries, else 0.
local function release_some(stream, consumer, taken_back, most)
  local page = pending(stream, '-', '+', most, consumer)
  for _, entry in ipairs(page) do
    release(stream, entry[1], entry[4] - taken_back)
  end
  return #page
end

-- A message's state ('waiting', 'running', 'delayed', 'dead' or nil) and its place in `ids`, which is
-- its stream entry if it asks for nothing (otherwise see lines.lua).
local function locate(stream, ids, message)
  local place = redis.call('HGET', ids, message)
  if not place then
    return nil
  end
  local first = string.sub(place, 1, 1)
  if first == 'd' then
    return string.sub(place, 1, 4) == 'dead' and 'dead' or 'delayed', place
  elseif first == '@' then
    return 'waiting', place
  end
  local leased, entry = stream, place
  if first == '*' then
    leased, entry = string.sub(stream, 1, -7) .. 'admitted', string.sub(place, 2)
  end
  local lease = pending(leased, entry, entry, 1)[1]
  if lease and lease[2] ~= RELEASED then
    return 'running', place
  end
  return 'waiting', place
end

-- Extra: what a message carries besides its id and body, in one string: how often it was delivered
-- before it came to where it is (4 bytes, big-endian). Most messages have none. In the stream it is a
-- third field, `extra`. In `delayed` and `bodies` such a message is stored under MARKED .. id, which
-- cannot be an id, as a record: the length of the extra (4 bytes, big-endian), the extra, the body.
local MARKED = '\1'

local function is_marked(member)
  return string.sub(member, 1, 1) == MARKED
end

-- The id of a message, from its member in `delayed`.
local function id_of(member)
  return is_marked(member) and string.sub(member, 2) or member
end

local function to_record(extra, body)
  return struct.pack('>I4', #extra) .. extra .. body
end

-- The extra and the body in a record, which is untrusted.
local function from_record(record)
  local length = #record >= 4 and struct.unpack('>I4', record) or #record
  if 4 + length > #record then
    return '', record
  end
  return string.sub(record, 5, 4 + length), string.sub(record, 5 + length)
end

-- How often a message was delivered before.
local function earlier(extra)
  return #extra >= 4 and struct.unpack('>I4', extra) or 0
end

-- The extra for this number of deliveries.
local function to_extra(deliveries)
  return deliveries > 0 and struct.pack('>I4', math.min(deliveries, 1e9)) or ''
end

-- Add a message to the stream; returns its entry.
local function add(stream, id, body, extra)
  if extra == '' then
    return redis.call('XADD', stream, '*', 'id', id, 'body', body)
  end
  return redis.call('XADD', stream, '*', 'id', id, 'body', body, 'extra', extra)
end

-- Keep a result and wake whoever waits for it on the channel named like the key.
local function keep_result(key, result, ttl_ms)
  redis.call('SET', key, result, 'PX', ttl_ms)
  redis.call('PUBLISH', key, '')
end

-- Bytes that a script may still move, so that the server's other clients do not wait long. One message
-- may exceed it, since messages can have any size.
local budget = 1024 * 1024

-- What a step for a message that asks for something costs in addition to its bytes: it takes about ten
-- commands, and a script should not run many more than two thousand.
local STEP_BYTES = 6144

-- Process a list in pages, doubling their size while the budget allows: `apply` gets a page and returns
-- its bytes. Returns how many items were processed.
local function in_pages(list, apply)
  local first, count = 1, 2
  while first <= #list and budget > 0 do
    local last = math.min(first + count - 1, #list)
    local bytes = apply({unpack(list, first, last)})
    count = last - first + 1
    budget = budget - bytes
    first = last + 1
    count = math.max(1, math.min(2 * count, math.floor(budget * count / math.max(bytes, 1))))
  end
  return math.min(first - 1, #list)
end

-- Append the dead letters with these ids to a reply, each as id, time and letter; returns their bytes.
local function add_letters(reply, letters, ids, time_of)
  local bytes = 0
  for i, letter in ipairs(redis.call('HMGET', letters, unpack(ids))) do
    if letter and time_of[ids[i]] then
      bytes = bytes + #letter
      reply[#reply + 1] = ids[i]
      reply[#reply + 1] = time_of[ids[i]]
      reply[#reply + 1] = letter
    end
  end
  return bytes
end

-- The bytes of a stream entry in a reply.
local function size_of(entry)
  local bytes = 0
  for _, text in ipairs(entry[2]) do
    bytes = bytes + #text
  end
  return bytes
end

-- Lease new messages without blocking, as far as the budget allows.
local function read_new(stream, consumer, most)
  local new, count = {}, 2
  while #new < most and budget > 0 do
    local asked = math.min(count, most - #new)
    local read = redis.call(
      'XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', asked, 'STREAMS', stream, '>')
    local entries, bytes = read and read[1][2] or {}, 0
    for _, entry in ipairs(entries) do
      new[#new + 1] = entry
      bytes = bytes + size_of(entry)
    end
    if #entries < asked then
      break
    end
    budget = budget - bytes
    count = math.max(1, math.min(4 * asked, math.floor(budget * asked / math.max(bytes, 1))))
  end
  return new
end

local function now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
