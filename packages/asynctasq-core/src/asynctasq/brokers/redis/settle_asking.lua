-- Apply the outcomes of deliveries that the consumer still holds, of messages that ask for something.
--
-- KEYS[1..6] stream, ids, delayed, bodies, dead, letters (as in settle.lua); further ones in lines.lua
-- KEYS[7...] keys of results to keep
-- ARGV[1] consumer
-- ARGV[2] first      no entry of the call is earlier
-- ARGV[3] last       no entry of the call is later
-- ARGV[4] 0
-- ARGV[5...] for each outcome 10 arguments (as in settle.lua); entries are of `admitted`
-- Returns the entries that the consumer no longer holds, or whose outcome needs a key that holds
-- another type.

local WIDTH = 10
local stream, ids, delayed, bodies, dead, letters = unpack(KEYS, 1, 6)
local lines, now = lines_of(stream, ids, delayed, bodies), now_ms()

local entries = {}
for i = 5, #ARGV, WIDTH do
  entries[#entries + 1] = ARGV[i + 1]
end
if not (is_sound(stream, ids, delayed, bodies) and lines_are_sound(lines) and is_of_type({'ZCARD', dead})
    and is_of_type({'HGET', letters, ''})) then
  return entries
end
local deliveries = held(lines.admitted, ARGV[1], entries, ARGV[2], ARGV[3])

local function wait(id, ask, extra, body, delay, at)
  if delay > 0 then
    redis.call('ZADD', delayed, at or now + delay, MARKED .. id)
    redis.call('HSET', bodies, MARKED .. id, to_record(extra, body))
    redis.call('HSET', ids, id, 'delayed' .. MARKED)
  else
    enter(lines, id, ask, extra, body, new_order(lines, ask, 1, now, 0))
  end
end

-- What an outcome needs to know of its message: the fields of its entry, in a table by name.
local function message_of(entry)
  local fields = (redis.call('XRANGE', lines.admitted, entry, entry)[1] or {})[2] or {}
  local extra = fields[6] or ''
  return {extra = extra, ask = asked(extra), body = fields[4] or ''}
end

local function apply(action, message, id, count, delay, info)
  local ask, extra, body = message.ask, message.extra, message.body
  free_place(lines, id, ask)
  if action == 'release' then
    local again = to_asking(earlier(extra) + count - 1, is_counted(extra), ask.text)
    enter(lines, id, ask, again, body, new_order(lines, ask, 0, 0, 0))
  elseif action == 'retry' then
    wait(id, ask, to_asking(0, false, ask.text), body, delay)
  elseif action == 'postpone' then
    wait(id, ask, to_asking(earlier(extra) + count - 1, false, ask.text), body, delay)
  elseif action == 'park' then
    take_back_delivery(lines, id, ask, now)
    local again = to_asking(earlier(extra) + count - 1, false, ask.text)
    wait(id, ask, again, body, delay, parked_at(stream, delay))
  else
    free_key(lines, id, ask)
  end
  if action == 'dead' then
    redis.call('ZADD', dead, now, id)
    redis.call('HSET', letters, id, struct.pack('>I4', #info) .. info .. body)
    redis.call('HSET', ids, id, 'dead' .. MARKED .. ask.text)
  end
end

local lost, removed, forgotten, messages = {}, {}, {}, {}
for i = 5, #ARGV, WIDTH do
  local entry = ARGV[i + 1]
  if deliveries[entry] and not messages[entry] then
    messages[entry] = message_of(entry)
    removed[#removed + 1] = entry
    forgotten[#forgotten + 1] = ARGV[i + 2]
  elseif not deliveries[entry] then
    lost[#lost + 1] = entry
  end
end

-- Removing comes first, as in settle.lua.
if #removed > 0 then
  redis.call('XACK', lines.admitted, GROUP, unpack(removed))
  redis.call('XDEL', lines.admitted, unpack(removed))
  redis.call('HDEL', ids, unpack(forgotten))
end

for i = 5, #ARGV, WIDTH do
  local entry, id = ARGV[i + 1], ARGV[i + 2]
  local message = messages[entry]
  if message then
    messages[entry] = nil
    if ARGV[i + 4] == '1' then
      message.body = ARGV[i + 5]
    end
    local action = ARGV[i]
    if action == 'park' and not is_paused(stream, ARGV[i + 6]) then
      action = 'release'
    end
    apply(action, message, id, deliveries[entry], tonumber(ARGV[i + 3]), ARGV[i + 6])
    if ARGV[i + 7] ~= '0' then
      keep_result(KEYS[6 + tonumber(ARGV[i + 7])], ARGV[i + 8], ARGV[i + 9])
    end
  end
end
look_again(lines, now)
return lost
