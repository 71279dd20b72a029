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

local function wait(id, ask, extra, body, delay)
  if delay > 0 then
    redis.call('ZADD', delayed, now + delay, MARKED .. id)
    redis.call('HSET', bodies, MARKED .. id, to_record(extra, body))
    redis.call('HSET', ids, id, 'delayed' .. MARKED)
  else
    enter(lines, id, ask, extra, body, new_order(lines, ask, 1, now, 0))
  end
end

local function apply(action, entry, id, delay, body, info)
  local fields = (redis.call('XRANGE', lines.admitted, entry, entry)[1] or {})[2] or {'id', id}
  local extra = fields[6] or ''
  local ask = asked(extra)
  body = body or fields[4] or ''
  if action == 'release' then
    give_back(lines, entry, {'id', id, 'body', body, 'extra', extra}, deliveries[entry] - 1)
    return
  end
  redis.call('XACK', lines.admitted, GROUP, entry)
  redis.call('XDEL', lines.admitted, entry)
  redis.call('HDEL', ids, id)
  free_place(lines, id, ask)
  if action == 'retry' then
    wait(id, ask, to_asking(0, false, ask.text), body, delay)
  elseif action == 'postpone' then
    local count = earlier(extra) + deliveries[entry] - 1
    wait(id, ask, to_asking(count, false, ask.text), body, delay)
  else
    free_key(lines, id, ask)
  end
  if action == 'dead' then
    redis.call('ZADD', dead, now, id)
    redis.call('HSET', letters, id, struct.pack('>I4', #info) .. info .. body)
    redis.call('HSET', ids, id, 'dead' .. MARKED .. ask.text)
  end
end

local lost = {}
for i = 5, #ARGV, WIDTH do
  local entry = ARGV[i + 1]
  if deliveries[entry] then
    local body = ARGV[i + 4] == '1' and ARGV[i + 5] or nil
    apply(ARGV[i], entry, ARGV[i + 2], tonumber(ARGV[i + 3]), body, ARGV[i + 6])
    if ARGV[i + 7] ~= '0' then
      keep_result(KEYS[6 + tonumber(ARGV[i + 7])], ARGV[i + 8], ARGV[i + 9])
    end
    deliveries[entry] = nil
  else
    lost[#lost + 1] = entry
  end
end
look_again(lines, now)
return lost
