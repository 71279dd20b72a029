-- Messages that ask for more than delivery: a priority, a unique key, a limit or a rate. Loaded before
-- the scripts that may meet one; messages that ask for nothing never come here.
--
-- Such a message waits outside the stream. A sweep judges it when a consumer has room, and lets it
-- pass into a separate stream, `admitted`, where it is leased at once. Messages with the same limit
-- and rate stand in one line. The first in line is open (to be judged) or parked: at its limit until a
-- message of the limit ends, or at its rate until the rate opens. Once one has been judged, the next
-- can be. So at any moment the first of each line is open or parked, and the rest cost nothing.
--
-- Its extra (see lease.lua) continues with a byte that says whether its rate has counted it already,
-- and with what it asks for, packed by the sender as a list (see asks.py). Both are untrusted.
--
-- The keys have the stream's name with another ending, so that a sweep of queues without such messages
-- need not send them:
--   admitted  stream: messages that passed; fields as in `stream`
--   open      sorted set, all scores 0: order and id of open messages
--   judging   sorted set, all scores 0: the other lookups, each in order:
--             B <limit> NUL <rate> NUL <order> <id>   in this line, wherever it stands
--             L <limit> NUL <order> <id>       parked at its limit
--             R <rate> NUL <order> <id>        parked at its rate
--   held      hash: limit -> how many admitted messages count towards it
--   timers    sorted set by time in ms: R <rate> opens; T <rate> may be forgotten; U <key> expires
--   rates     hash: rate -> time in ms until which it is used up (`tat`), and when the next may pass;
--             MARKED -> the last serial
--   unique    hash: key -> time in ms at which it expires or 0 (14 digits), id of its holder
--   passed    string: time in ms before which no one need look at leases in `admitted` (like `look`)
-- and in the keys of put.lua:
--   ids       @<stand><order> if it waits here, *<entry> if it was admitted, delayed MARKED,
--             dead MARKED <what it asks for>; MARKED -> the stream's entry that wakes a consumer
--   bodies    MARKED <id> -> its record
--   delayed   MARKED, with the time in ms at which a sweep should look here; present as long as any
--             such message waits here or is admitted

local ORDER_LENGTH = 37
local PRIORITY_0 = '100'
local LOOK_AGAIN_MS = 500

local function lines_of(stream, ids, delayed, bodies)
  local prefix = string.sub(stream, 1, -7)
  return {
    stream = stream, ids = ids, delayed = delayed, bodies = bodies, admitted = prefix .. 'admitted',
    open = prefix .. 'open', judging = prefix .. 'judging', held = prefix .. 'held',
    timers = prefix .. 'timers', rates = prefix .. 'rates',
    unique = prefix .. 'unique', look = prefix .. 'passed',
  }
end

-- Whether these keys have the expected types.
local function lines_are_sound(lines)
  return is_of_type({'XLEN', lines.admitted}) and is_of_type({'ZCARD', lines.open})
    and is_of_type({'ZCARD', lines.judging}) and is_of_type({'HGET', lines.held, ''})
    and is_of_type({'ZCARD', lines.timers}) and is_of_type({'HGET', lines.rates, ''})
    and is_of_type({'HGET', lines.unique, ''})
end

local type, find = type, string.find

local function text_in(value)
  return value ~= '' and type(value) == 'string' and not find(value, '\0', 1, true) and value or ''
end

local function number_in(value, least, most)
  if value == 0 or type(value) ~= 'number' or value ~= value then
    return 0
  elseif value < least then
    return least
  end
  return value < most and value or most
end

local known_asks = {}

-- What a message asks for, as packed by its sender; damaged parts count as nothing. Do not modify the
-- result, which is cached.
local function asked_by(text)
  local ask = known_asks[text]
  if ask then
    return ask
  end
  local is_packed, list = pcall(cmsgpack.unpack, #text <= 65536 and text or '')
  list = is_packed and type(list) == 'table' and list or {}
  local limit, most = text_in(list[2]), number_in(list[3], 0, 1e9)
  local rate, burst = text_in(list[4]), number_in(list[6], 0, 1e9)
  limit, rate = most >= 1 and limit or '', burst >= 1 and rate or ''
  local has_line = limit ~= '' or rate ~= ''
  ask = {
    text = text, priority = math.floor(number_in(list[1], -100, 100)),
    limit = limit, most = most, has_limit = limit ~= '',
    rate = rate, interval = number_in(list[5], 0, 1e12), burst = burst, has_rate = rate ~= '',
    unique = text_in(list[7]), until_started = list[8] == 1, lasts = number_in(list[9], 0, 1e12),
    replaces = list[10] == 1,
    has_line = has_line, line = has_line and 'B' .. limit .. '\0' .. rate .. '\0' or 'B\0\0',
  }
  known_asks[text] = ask
  return ask
end

-- What a message asks for, from its extra.
local function asked(extra)
  return asked_by(string.sub(extra, 6))
end

-- Whether a place in `ids` belongs to a message that asks for something.
local function is_asking_place(place)
  local first = string.sub(place, 1, 1)
  return first == '@' or first == '*' or string.sub(place, -1) == MARKED
end

local function is_asking(extra)
  return #extra > 5
end

local function is_counted(extra)
  return string.byte(extra, 5) == 1
end

local function to_asking(deliveries, counted, text)
  local head = struct.pack('>I4', math.max(0, math.min(deliveries, 1e9)))
  return head .. (counted and '\1' or '\0') .. text
end

-- Run a command with pairs of arguments, in groups, since a script can pass only so many at once.
local function in_groups(command, key, pairs)
  for i = 1, #pairs, 1000 do
    redis.call(command, key, unpack(pairs, i, math.min(#pairs, i + 999)))
  end
end

-- The first members of `judging` with this prefix, in order.
local function first_of(lines, prefix, most)
  return redis.call(
    'ZRANGEBYLEX', lines.judging, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, most or 1)
end

-- The first open messages, as order and id.
local function first_open(lines, most)
  return redis.call('ZRANGE', lines.open, 0, (most or 1) - 1)
end

-- The order and the id that follow a prefix.
local function parts_of(member, prefix)
  local first = #prefix + 1
  return string.sub(member, first, first + ORDER_LENGTH - 1), string.sub(member, first + ORDER_LENGTH)
end

-- A new order; `ms` and `number` name the stream entry after which the message was put.
local function new_order(lines, ask, rank, ms, number, serial)
  serial = serial or redis.call('HINCRBY', lines.rates, MARKED, 1)
  return string.format('%03d%d%014.0f%013.0f%06.0f', 100 - ask.priority, rank, serial, ms,
    math.min(number, 999999))
end

local function stand(lines, id, kind, order)
  redis.call('HSET', lines.ids, id, '@' .. kind .. order)
end

local function open(lines, id, order)
  redis.call('ZADD', lines.open, 0, order .. id)
  stand(lines, id, 'O', order)
end

local function park(lines, id, order, kind, key)
  redis.call('ZREM', lines.open, order .. id)
  redis.call('ZADD', lines.judging, 0, kind .. key .. '\0' .. order .. id)
  stand(lines, id, kind, order)
end

-- Open the first message parked at a limit ('L') or a rate ('R'); returns its order and id, or nil.
local function open_parked(lines, kind, key)
  if key == '' then
    return nil
  end
  local prefix = kind .. key .. '\0'
  local member = first_of(lines, prefix)[1]
  if not member then
    return nil
  end
  local order, id = parts_of(member, prefix)
  redis.call('ZREM', lines.judging, member)
  open(lines, id, order)
  return order .. id
end

-- Make a message wait.
local function enter(lines, id, ask, extra, body, order)
  redis.call('HSET', lines.bodies, MARKED .. id, to_record(extra, body))
  if not ask.has_line then
    open(lines, id, order)
    return
  end
  local before = first_of(lines, ask.line)[1]
  redis.call('ZADD', lines.judging, 0, ask.line .. order .. id)
  if before and before < ask.line .. order then
    stand(lines, id, 'B', order)
  else
    open(lines, id, order)
  end
end

-- Remove a waiting message that was admitted or deleted; the caller updates its record and its place
-- in `ids`.
local function leave(lines, id, ask, kind, order)
  local key_of = {L = 'L' .. ask.limit .. '\0', R = 'R' .. ask.rate .. '\0', B = ask.line}
  if kind == 'O' then
    redis.call('ZREM', lines.open, order .. id)
  end
  redis.call('ZREM', lines.judging, ask.line .. order .. id, (key_of[kind] or kind) .. order .. id)
  if ask.has_line then
    local following = first_of(lines, ask.line)[1]
    if following then
      local its_order, its_id = parts_of(following, ask.line)
      if string.sub(redis.call('HGET', lines.ids, its_id) or '', 1, 2) == '@B' then
        open(lines, its_id, its_order)
      end
    end
  end
  if kind == 'O' then
    open_parked(lines, 'L', ask.limit)
    open_parked(lines, 'R', ask.rate)
  end
end

-- Who holds a unique key, and until when, by what stands in `unique`; nil if it is free.
local function holder_in(text, now)
  local over = text and tonumber(string.sub(text, 1, 14)) or 0
  if not text or (over > 0 and over <= now) then
    return nil
  end
  return string.sub(text, 15), over
end

local function holder_of(lines, key, now)
  return holder_in(redis.call('HGET', lines.unique, key), now)
end

local function take_key(lines, id, ask, now)
  if ask.unique == '' or holder_of(lines, ask.unique, now) then
    return
  end
  local over = ask.lasts > 0 and now + ask.lasts or 0
  redis.call('HSET', lines.unique, ask.unique, string.format('%014.0f', over) .. id)
  if over > 0 then
    redis.call('ZADD', lines.timers, over, 'U' .. ask.unique)
  end
end

-- Free the message's key, unless only time frees it.
local function free_key(lines, id, ask)
  if ask.unique ~= '' then
    local holder, over = holder_of(lines, ask.unique, 0)
    if holder == id and over == 0 then
      redis.call('HDEL', lines.unique, ask.unique)
    end
  end
end

-- The time in ms until which a rate is used up.
local function tat_of(lines, rate)
  return tonumber(string.match(redis.call('HGET', lines.rates, rate) or '', '^%S+')) or 0
end

-- Undo the effect of a message's delivery on its rate and key, since it did not run.
local function take_back_delivery(lines, id, ask, now)
  if ask.has_rate then
    local tat = tat_of(lines, ask.rate) - ask.interval
    local opens = tat - (ask.burst - 1) * ask.interval
    redis.call('HSET', lines.rates, ask.rate, string.format('%.3f %.3f', tat, opens))
    open_parked(lines, 'R', ask.rate)  -- it is judged again
  end
  if ask.until_started and ask.lasts == 0 then
    take_key(lines, id, ask, now)
  end
end

-- Stop counting a message towards its limit, since it no longer runs.
local function free_place(lines, ask)
  if ask.has_limit then
    local left = (tonumber(redis.call('HGET', lines.held, ask.limit) or 0) or 0) - 1
    if left > 0 then
      redis.call('HSET', lines.held, ask.limit, left)
    else
      redis.call('HDEL', lines.held, ask.limit)
    end
    open_parked(lines, 'L', ask.limit)
  end
end

-- Do what the passing of time requires.
local function pass_time(lines, now)
  for _, timer in ipairs(redis.call('ZRANGEBYSCORE', lines.timers, '-inf', now, 'LIMIT', 0, 200)) do
    if budget <= 0 then
      break
    end
    budget = budget - STEP_BYTES / 2
    local kind, key = string.sub(timer, 1, 1), string.sub(timer, 2)
    redis.call('ZREM', lines.timers, timer)
    if kind == 'R' then
      open_parked(lines, 'R', key)
    elseif kind == 'T' then
      if tat_of(lines, key) <= now then
        redis.call('HDEL', lines.rates, key)
      end
    elseif not holder_of(lines, key, now) then
      redis.call('HDEL', lines.unique, key)
    end
  end
end

-- Give back an admitted message: it goes first, and its rate does not count it again.
local function give_back(lines, entry, fields, deliveries)
  local id, extra = fields[2], fields[6] or ''
  local ask = asked(extra)
  redis.call('XACK', lines.admitted, GROUP, entry)
  redis.call('XDEL', lines.admitted, entry)
  free_place(lines, ask)
  extra = to_asking(earlier(extra) + deliveries, is_counted(extra), ask.text)
  enter(lines, id, ask, extra, fields[4], new_order(lines, ask, 0, 0, 0))
end

local function drop_wake_up(lines)
  local entry = redis.call('HGET', lines.ids, MARKED)
  if entry then
    redis.call('XACK', lines.stream, GROUP, entry)
    redis.call('XDEL', lines.stream, entry)
    redis.call('HDEL', lines.ids, MARKED)
  end
end

-- Call after any change: sets when a sweep should look here, and wakes a consumer if a message is open.
local function look_again(lines, now)
  if first_open(lines)[1] then
    redis.call('ZADD', lines.delayed, 0, MARKED)
    if redis.call('HEXISTS', lines.ids, MARKED) == 0 then
      redis.call('HSET', lines.ids, MARKED, redis.call('XADD', lines.stream, '*', 'wake', ''))
    end
    return
  end
  drop_wake_up(lines)
  if redis.call('XLEN', lines.admitted) > 0 or redis.call('ZCARD', lines.judging) > 0 then
    local next_timer = redis.call('ZRANGE', lines.timers, 0, 0, 'WITHSCORES')[2]
    local at = math.min(tonumber(next_timer) or 1e15, now + LOOK_AGAIN_MS)
    redis.call('ZADD', lines.delayed, string.format('%.0f', at), MARKED)
  else
    redis.call('ZREM', lines.delayed, MARKED)
  end
end

-- Remove a message that waits, is delayed or was given back, by its place in `ids`, and free what it
-- asked for.
local function remove_asking(lines, id, place)
  local mark, ask, record = string.sub(place, 1, 1), nil, nil
  if mark == '*' then
    local entry = string.sub(place, 2)
    local fields = (redis.call('XRANGE', lines.admitted, entry, entry)[1] or {})[2]
    ask = asked(fields and fields[6] or '')
    budget = budget - STEP_BYTES - #(fields and fields[4] or '')
    redis.pcall('XACK', lines.admitted, GROUP, entry)
    redis.call('XDEL', lines.admitted, entry)
    free_place(lines, ask)
  else
    record = redis.call('HGET', lines.bodies, MARKED .. id)
    ask = asked(record and from_record(record) or '')
    budget = budget - STEP_BYTES - #(record or '')
    redis.call('HDEL', lines.bodies, MARKED .. id)
    if mark == '@' then
      leave(lines, id, ask, string.sub(place, 2, 2), string.sub(place, 3))
    else
      redis.call('ZREM', lines.delayed, MARKED .. id)
    end
  end
  free_key(lines, id, ask)
end
