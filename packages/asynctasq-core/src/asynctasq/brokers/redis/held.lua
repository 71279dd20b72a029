-- A page of a queue's messages in one state, roughly in the order in which they will be taken.
--
-- Waiting messages are in several parts, each in an order that does not change for messages that stay:
--   r given back   a given back, of those admitted   o to be judged, without a line
--   d due          n new                             b in lines
-- Running messages are in two: s, and t for those admitted. Delayed ones are in one: l.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua); further ones in lines.lua
-- ARGV[1] letters of the parts to look at
-- ARGV[2] the last message already shown of the first part; '' to begin at its start
-- ARGV[3] maximum number of messages
-- Returns {letter of the part reached, the last message there, {messages as in showing.lua}}; the
-- letter is '' at the end.

local stream, ids, delayed, bodies = unpack(KEYS)
local lines, now = lines_of(stream, ids, delayed, bodies), now_ms()
local most = tonumber(ARGV[3])
-- Maximum messages that a page looks at, including those that it skips.
local MOST_SEEN = 1000

-- Each part is a function that shows or skips up to `count` messages after a given one, and returns
-- how many there were and the last one.

local function leases(leased, is_back)
  return function(after, count)
    local first = after == '' and '-' or '(' .. after
    local found = pending(leased, first, '+', count, is_back and RELEASED or nil)
    for _, lease in ipairs(found) do
      after = lease[1]
      if is_back or lease[2] ~= RELEASED then
        show_lease(leased, lease)
      end
    end
    return #found, after
  end
end

local function is_later(entry, other)
  local ms, number = string.match(entry, '^(%d+)-(%d+)$')
  local other_ms, other_number = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  return ms > other_ms or (ms == other_ms and tonumber(number) > tonumber(other_number))
end

local function new(after, count)
  local delivered = fence_of(stream) or last_read(stream) or '0-0'
  if after == '' or is_later(delivered, after) then
    after = delivered
  end
  local found = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', count)
  for _, entry in ipairs(found) do
    after = entry[1]
    show_entry(entry[2], 'waiting', 0)
  end
  return #found, after
end

local function open_ones(after, count)
  local first = after == '' and '-' or '(' .. after
  local found = redis.call('ZRANGEBYLEX', lines.open, first, '+', 'LIMIT', 0, count)
  for _, member in ipairs(found) do
    after = member
    local _, id = parts_of(member, '')
    show_standing(bodies, id, true)
  end
  return #found, after
end

local function in_lines(after, count)
  local first = after == '' and '[B' or '(' .. after
  local found = redis.call('ZRANGEBYLEX', lines.judging, first, '(B\255', 'LIMIT', 0, count)
  for _, member in ipairs(found) do
    after = member
    local _, id = parts_of(member, string.match(member, '^B[^%z]*%z[^%z]*%z') or member)
    show_standing(bodies, id, false)
  end
  return #found, after
end

-- Byte order, in which the server sorts members with equal scores; `>` would follow its locale.
local function is_after(member, other)
  for i = 1, math.min(#member, #other) do
    local one, two = string.byte(member, i), string.byte(other, i)
    if one ~= two then
      return one > two
    end
  end
  return #member > #other
end

-- How many members of `delayed` do not come after this one, which may be gone.
local function rank_after(after)
  local due, member = string.match(after, '^(%S+) (.*)$')
  if redis.call('ZSCORE', delayed, member) == due then
    return redis.call('ZRANK', delayed, member) + 1
  end
  local first = redis.call('ZCOUNT', delayed, '-inf', '(' .. due)
  local last = redis.call('ZCOUNT', delayed, '-inf', due)
  while first < last do
    local middle = math.floor((first + last) / 2)
    if is_after(redis.call('ZRANGE', delayed, middle, middle)[1], member) then
      last = middle
    else
      first = middle + 1
    end
  end
  return first
end

local function later(is_due)
  return function(after, count)
    local due = redis.call('ZCOUNT', delayed, '-inf', now)
    local first, last = is_due and 0 or due, is_due and due or 1e15
    first = math.max(first, after == '' and 0 or rank_after(after))
    last = math.min(last, first + count) - 1
    local found = last < first and {} or redis.call(
      'ZRANGE', delayed, first, string.format('%.0f', last), 'WITHSCORES')
    for i = 1, #found, 2 do
      after = found[i + 1] .. ' ' .. found[i]
      if found[i] ~= MARKED then
        show_delayed(bodies, found[i], found[i + 1], now)
      end
    end
    return #found / 2, after
  end
end

local parts = {
  r = leases(stream, true), a = leases(lines.admitted, true), o = open_ones, d = later(true),
  n = new, b = in_lines, s = leases(stream, false), t = leases(lines.admitted, false),
  l = later(false),
}

local after, seen, asked_for = ARGV[2], 0, 2
for part in string.gmatch(ARGV[1], '.') do
  local found, count = 0, 0
  repeat
    if shown >= most or seen >= MOST_SEEN or budget <= 0 then
      return {part, after, reply}
    end
    local before = budget
    count = math.min(asked_for, most - shown)
    found, after = parts[part](after, count)
    seen = seen + found
    if found > 0 then  -- parts without messages say nothing about their size
      local bytes = math.max(before - budget, 1)
      asked_for = math.max(1, math.min(2 * found, 100, math.floor(budget * found / bytes)))
    end
  until found < count
  after = ''
end
return {'', '', reply}
