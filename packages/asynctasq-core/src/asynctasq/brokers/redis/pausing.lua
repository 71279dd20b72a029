-- Pauses. Loaded before the scripts that may meet one, after remembering.lua and lines.lua.
--
-- While a queue has pauses, its stream is fenced: the group seems to have read up to the last possible
-- entry, so blocking reads return nothing. Only sweeps read then, since they tell consumers about the
-- pauses. A message is parked by delaying it until a time that never comes. Each pause has its own
-- range of such times, in which serial numbers keep the order.
--
-- The keys have the stream's name with another ending:
--   values:pauses  hash: name -> pause (as in remembering.lua)
--   fence          hash: 'at' -> the entry up to which consumers have really read;
--                  'serial' -> the last serial number;
--                  'waking' -> numbers of pauses that are over, some of whose messages are still
--                  parked, as whoever ended them was killed; each followed by a comma

local FENCE = '18446744073709551615-18446744073709551615'
-- Scores are exact up to 2 ^ 53; there are 2 ^ 24 pauses of 2 ^ 28 messages.
local PARKED, PARKED_OF_ONE = 2 ^ 52, 2 ^ 28

local function pauses_key(stream)
  return string.sub(stream, 1, -7) .. 'values:pauses'
end

local function fence_key(stream)
  return string.sub(stream, 1, -7) .. 'fence'
end

-- The entry up to which consumers have read, should the fence not say so, since others may have written
-- there. What they have read is leased or deleted.
local function last_leased(stream)
  local summary = redis.pcall('XPENDING', stream, GROUP)
  return not summary.err and summary[3] or '0-0'
end

-- The entry up to which consumers have read if the stream is fenced, else nil; and what is waking.
local function fence_of(stream)
  local fields = redis.pcall('HMGET', fence_key(stream), 'at', 'waking')
  local at, waking = fields[1] or nil, fields[2] or nil
  if at then
    local ms, number = string.match(at, '^(%d+)-(%d+)$')
    at = ms and #ms < 20 and #number < 20 and at or last_leased(stream)
  end
  return at, waking
end

local function is_paused(stream, name)
  return redis.pcall('HEXISTS', pauses_key(stream), name) == 1
end

local function is_held(stream)
  return is_paused(stream, '')
end

local function make_group(stream)
  local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then
    error(made.err)
  end
end

-- Let reads work as without a fence until `fence` is called, within one script.
local function lift(stream)
  make_group(stream)
  if last_read(stream) == FENCE then
    redis.call('XGROUP', 'SETID', stream, GROUP, fence_of(stream) or last_leased(stream))
  end
end

local function fence(stream)
  local at = last_read(stream)
  if at ~= FENCE then
    redis.call('HSET', fence_key(stream), 'at', at)
    redis.call('XGROUP', 'SETID', stream, GROUP, FENCE)
  end
end

-- The score for parking a message now under the pause with this number.
local function parked_at(stream, number)
  local serial = redis.pcall('HINCRBY', fence_key(stream), 'serial', 1)
  if type(serial) ~= 'number' then  -- not written by us
    redis.pcall('HSET', fence_key(stream), 'serial', 0)
    serial = 0
  end
  return string.format('%.0f', PARKED + (number - 1) * PARKED_OF_ONE + serial % PARKED_OF_ONE)
end

-- Remember whether messages that were parked under the pause with this number are yet to be resumed.
local function note_waking(stream, number, are_left)
  local _, waking = fence_of(stream)
  local mark = string.format(',%.0f,', number)
  local others = string.gsub(',' .. (waking or ''), mark, ',', 1)
  local noted = string.sub(others, 2) .. (are_left and string.sub(mark, 2) or '')
  if noted == '' then
    redis.pcall('HDEL', fence_key(stream), 'waking')
  elseif noted ~= waking then
    redis.call('HSET', fence_key(stream), 'waking', noted)
  end
end

-- Make up to `most` messages that are parked under the pause with this number due before all others, in
-- their order; returns how many there were.
local function wake(stream, delayed, number, most)
  local first = PARKED + (number - 1) * PARKED_OF_ONE
  local found = redis.call('ZRANGEBYSCORE', delayed, string.format('%.0f', first),
    string.format('(%.0f', first + PARKED_OF_ONE), 'WITHSCORES', 'LIMIT', 0, most)
  local due = {}
  for i = 1, #found, 2 do
    due[i], due[i + 1] = string.format('%.0f', 1 + tonumber(found[i + 1]) - first), found[i]
  end
  if #due > 0 then
    redis.call('ZADD', delayed, unpack(due))
  end
  note_waking(stream, number, #found / 2 == most)
  return #found / 2
end
