-- The keys that are taken or have messages.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua); further ones in lines.lua
-- ARGV[1] maximum lines, limits, rates and unique keys (of each) to look at
-- Returns {now in ms, {limit, rate, how many wait in their line, ...}, {limit, holder, ...},
-- {rate, time in ms until which it is used up, time in ms at which the next may pass, ...},
-- {unique key, holder, ...}}.

local lines, now, most = lines_of(unpack(KEYS)), now_ms(), tonumber(ARGV[1])
local waiting, holders, rates, keys = {}, {}, {}, {}

local function each_line()
  local after = '[B'
  for _ = 1, most do
    local member = redis.call('ZRANGEBYLEX', lines.judging, after, '(C', 'LIMIT', 0, 1)[1]
    local limit, rate = string.match(member or '', '^B([^%z]*)%z([^%z]*)%z')
    if not limit then
      return
    end
    local prefix = 'B' .. limit .. '\0' .. rate .. '\0'
    waiting[#waiting + 1] = limit
    waiting[#waiting + 1] = rate
    waiting[#waiting + 1] = redis.call(
      'ZLEXCOUNT', lines.judging, '[' .. prefix, '(' .. prefix .. '\255')
    after = '(' .. prefix .. '\255'
  end
end

each_line()
for _, entry in ipairs(redis.call('XRANGE', lines.admitted, '-', '+', 'COUNT', most)) do
  local ask = asked(entry[2][6] or '')
  if ask.has_limit and entry[2][2] then
    holders[#holders + 1] = ask.limit
    holders[#holders + 1] = entry[2][2]
  end
end
local function some_of(hash)
  return redis.call('HSCAN', hash, 0, 'COUNT', most)[2]
end
local found = some_of(lines.rates)
for i = 1, #found, 2 do
  if found[i] ~= MARKED then
    rates[#rates + 1] = found[i]
    rates[#rates + 1] = string.format('%.3f', tat_of(lines, found[i]))
    rates[#rates + 1] = string.match(found[i + 1], '%S+$') or '0'
  end
end
found = some_of(lines.unique)
for i = 1, #found, 2 do
  local holder = holder_of(lines, found[i], now)
  if holder then
    keys[#keys + 1] = found[i]
    keys[#keys + 1] = holder
  end
end
return {tostring(now), waiting, holders, rates, keys}
