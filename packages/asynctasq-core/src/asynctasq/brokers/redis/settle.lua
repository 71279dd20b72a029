-- Applies the outcomes of deliveries that the consumer still holds; settle_asking.lua does so for
-- messages that ask for something.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua)
-- KEYS[5] dead       sorted set: message id by the time in ms at which it died
-- KEYS[6] letters    hash: message id -> length of info (4 bytes, big-endian), info, body
-- KEYS[7...]         keys of results to keep
-- ARGV[1] consumer
-- ARGV[2] first      no entry in this call is earlier
-- ARGV[3] last       no entry in this call is later
-- ARGV[4] n          number of messages that are done and keep no result
-- ARGV[5...]         n stream entries, then their n message ids
-- ARGV[5 + 2 n...]   for each other outcome 10 arguments: action ('done', 'retry', 'postpone',
--                    'park', 'dead', 'release'), entry, message id, delay in ms (for park: number of
--                    the pause), '1' if a body is given, body, info (for park: name of the pause),
--                    number of its key among the results or 0, result, result's lifetime in ms
-- Returns the entries that the consumer no longer holds, and those whose outcome needs a key that holds
-- another type: the latter stay as they are and come back when their lease expires.

local WIDTH = 10
local stream, ids, delayed, bodies, dead, letters = unpack(KEYS, 1, 6)
local consumer, plain = ARGV[1], tonumber(ARGV[4])

local entries = {}
for i = 5, 4 + plain do
  entries[#entries + 1] = ARGV[i]
end
for i = 5 + 2 * plain, #ARGV, WIDTH do
  entries[#entries + 1] = ARGV[i + 1]
end
local deliveries = held(stream, consumer, entries, ARGV[2], ARGV[3])
local can_bury = true
if #entries > plain then
  if not is_sound(stream, ids, delayed, bodies) then
    return entries
  end
  can_bury = is_of_type({'ZCARD', dead}) and is_of_type({'HGET', letters, ''})
end

local lost, removed, forgotten, others = {}, {}, {}, {}
for i = 5, 4 + plain do
  if deliveries[ARGV[i]] then
    removed[#removed + 1] = ARGV[i]
    forgotten[#forgotten + 1] = ARGV[i + plain]
  else
    lost[#lost + 1] = ARGV[i]
  end
end

-- Add to the outcome the body and the extra that its message keeps.
local function complete(outcome)
  outcome.extra = ''
  local is_put_off = outcome.action == 'postpone' or outcome.action == 'park'
  if outcome.body_given and not is_put_off then
    return
  end
  local entry = redis.call('XRANGE', stream, outcome.entry, outcome.entry)[1]
  local fields = entry and entry[2] or {}
  if not outcome.body_given then
    outcome.body = fields[4] or ''
  end
  if is_put_off then
    outcome.extra = to_extra(earlier(fields[6] or '') + deliveries[outcome.entry] - 1)
  end
end

for i = 5 + 2 * plain, #ARGV, WIDTH do
  local outcome = {
    action = ARGV[i], entry = ARGV[i + 1], id = ARGV[i + 2], delay = tonumber(ARGV[i + 3]),
    body_given = ARGV[i + 4] == '1', body = ARGV[i + 5], info = ARGV[i + 6],
    result_key = KEYS[6 + tonumber(ARGV[i + 7])], keeps = ARGV[i + 7] ~= '0',
    result = ARGV[i + 8], ttl = ARGV[i + 9],
  }
  if outcome.action == 'park' and not is_paused(stream, outcome.info) then
    outcome.action = 'release'
  end
  if not deliveries[outcome.entry] or (outcome.action == 'dead' and not can_bury) then
    lost[#lost + 1] = outcome.entry
  elseif outcome.action == 'release' then
    release(stream, outcome.entry, deliveries[outcome.entry] - 1)
  else
    if outcome.action ~= 'done' then
      complete(outcome)
    end
    removed[#removed + 1] = outcome.entry
    forgotten[#forgotten + 1] = outcome.id
    others[#others + 1] = outcome
  end
end

-- Remove first: when memory is exhausted, Redis refuses only the first write of a script, so nothing
-- after it can fail and leave the script half applied.
if #removed > 0 then
  redis.call('XACK', stream, GROUP, unpack(removed))
  redis.call('XDEL', stream, unpack(removed))
  redis.call('HDEL', ids, unpack(forgotten))
end

local now = #others > 0 and now_ms()
for _, outcome in ipairs(others) do
  local id, place = outcome.id, nil
  local parks = outcome.action == 'park'
  local waits = outcome.action == 'retry' or outcome.action == 'postpone' or parks
  if waits and outcome.delay > 0 then
    local is_plain = outcome.extra == ''
    local member = is_plain and id or MARKED .. id
    redis.call(
      'ZADD', delayed, parks and parked_at(stream, outcome.delay) or now + outcome.delay, member)
    redis.call(
      'HSET', bodies, member, is_plain and outcome.body or to_record(outcome.extra, outcome.body))
    place = 'delayed'
  elseif waits then
    place = add(stream, id, outcome.body, outcome.extra)
  elseif outcome.action == 'dead' then
    redis.call('ZADD', dead, now, id)
    redis.call('HSET', letters, id, struct.pack('>I4', #outcome.info) .. outcome.info .. outcome.body)
    place = 'dead'
  end
  if place then
    redis.call('HSET', ids, id, place)
  end
  if outcome.keeps then
    keep_result(outcome.result_key, outcome.result, outcome.ttl)
  end
end
return lost
