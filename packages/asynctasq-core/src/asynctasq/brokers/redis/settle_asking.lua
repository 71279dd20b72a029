-- Applies the outcomes of deliveries that the consumer still holds, for messages that ask for something.
--
-- KEYS[1..6] stream, ids, delayed, bodies, dead, letters (as in settle.lua); further ones in lines.lua
-- KEYS[7...] keys of results to keep
-- ARGV[1] consumer
-- ARGV[2] first      no entry in this call is earlier
-- ARGV[3] last       no entry in this call is later
-- ARGV[4] n          number of messages that are done and keep no result
-- ARGV[5...]         n entries of `admitted`, then their n message ids, then what the n ask for
-- ARGV[5 + 3 n...]   for each other outcome 10 arguments (as in settle.lua)
-- Returns the entries that the consumer no longer holds, or whose outcome needs a key that holds
-- another type.

local WIDTH = 10
local stream, ids, delayed, bodies, dead, letters = unpack(KEYS, 1, 6)
local lines, now = lines_of(stream, ids, delayed, bodies), now_ms()

local plain = tonumber(ARGV[4])
local first_other = 5 + 3 * plain

local entries = {unpack(ARGV, 5, 4 + plain)}
for i = first_other, #ARGV, WIDTH do
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

-- What applying an outcome needs of its message: the fields of its entry, by name.
local function message_of(entry)
  local fields = (redis.call('XRANGE', lines.admitted, entry, entry)[1] or {})[2] or {}
  local extra = fields[6] or ''
  return {extra = extra, ask = asked(extra), body = fields[4] or ''}
end

local function apply(action, message, id, count, delay, info)
  local ask, extra, body = message.ask, message.extra, message.body
  free_place(lines, ask)
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

-- Does `free_place` and `free_key` for all of these, in few commands.
local function free_all(ids_of, asks)
  local ended, limits, keys, holders = {}, {}, {}, {}
  for i, ask in ipairs(asks) do
    if ask.has_limit then
      limits[#limits + 1] = not ended[ask.limit] and ask.limit or nil
      ended[ask.limit] = (ended[ask.limit] or 0) + 1
    end
    if ask.unique ~= '' then
      keys[#keys + 1] = ask.unique
      holders[#holders + 1] = ids_of[i]
    end
  end
  if #limits > 0 then
    local counts, still, free = redis.call('HMGET', lines.held, unpack(limits)), {}, {}
    for i, limit in ipairs(limits) do
      local left = (tonumber(counts[i] or 0) or 0) - ended[limit]
      if left > 0 then
        still[#still + 1] = limit
        still[#still + 1] = left
      else
        free[#free + 1] = limit
      end
    end
    if #free > 0 then
      redis.call('HDEL', lines.held, unpack(free))
    end
    if #still > 0 then
      redis.call('HSET', lines.held, unpack(still))
    end
    for _, limit in ipairs(first_of(lines, 'L')[1] and limits or {}) do
      for _ = 1, ended[limit] do
        if not open_parked(lines, 'L', limit) then
          break
        end
      end
    end
  end
  if #keys > 0 then
    local free = {}
    for i, text in ipairs(redis.call('HMGET', lines.unique, unpack(keys))) do
      -- Keys that only time frees stay taken.
      if text and string.sub(text, 15) == holders[i] and (tonumber(string.sub(text, 1, 14)) or 0) == 0 then
        free[#free + 1] = keys[i]
      end
    end
    if #free > 0 then
      redis.call('HDEL', lines.unique, unpack(free))
    end
  end
end

local lost, removed, forgotten, messages = {}, {}, {}, {}
local done, asks = {}, {}
for i = 5, 4 + plain do
  local entry, id = ARGV[i], ARGV[i + plain]
  if deliveries[entry] then
    removed[#removed + 1] = entry
    forgotten[#forgotten + 1] = id
    done[#done + 1] = id
    asks[#asks + 1] = asked_by(ARGV[i + 2 * plain])
  else
    lost[#lost + 1] = entry
  end
end
for i = first_other, #ARGV, WIDTH do
  local entry = ARGV[i + 1]
  if deliveries[entry] and not messages[entry] then
    messages[entry] = message_of(entry)
    removed[#removed + 1] = entry
    forgotten[#forgotten + 1] = ARGV[i + 2]
  elseif not deliveries[entry] then
    lost[#lost + 1] = entry
  end
end

-- Remove first, as in settle.lua.
if #removed > 0 then
  redis.call('XACK', lines.admitted, GROUP, unpack(removed))
  redis.call('XDEL', lines.admitted, unpack(removed))
  redis.call('HDEL', ids, unpack(forgotten))
end
free_all(done, asks)

for i = first_other, #ARGV, WIDTH do
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
