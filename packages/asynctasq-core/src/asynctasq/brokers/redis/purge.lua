-- Delete messages that are waiting or delayed; call again until it returns 0.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua)
-- Returns how many were deleted, at most 100 of each kind.

local PAGE = 100
local stream, ids, delayed, bodies = unpack(KEYS)
local purged = 0

local function remove(entries)
  local places, names = {}, {}
  for _, entry in ipairs(entries) do
    places[#places + 1] = entry[1]
    names[#names + 1] = entry[2][2]
  end
  if #places > 0 then
    redis.pcall('XACK', stream, GROUP, unpack(places))
    redis.call('XDEL', stream, unpack(places))
    redis.call('HDEL', ids, unpack(names))
    purged = purged + #places
  end
end

local later = redis.call('ZRANGE', delayed, 0, PAGE - 1)
if #later > 0 then
  redis.call('ZREM', delayed, unpack(later))
  redis.call('HDEL', bodies, unpack(later))
  redis.call('HDEL', ids, unpack(later))
  purged = #later
end

local released = {}
for _, lease in ipairs(pending(stream, '-', '+', PAGE, RELEASED)) do
  released[#released + 1] = redis.call('XRANGE', stream, lease[1], lease[1])[1]
end
remove(released)

local after = '-'
local groups = redis.pcall('XINFO', 'GROUPS', stream)
for _, fields in ipairs(groups.err and {} or groups) do
  for i = 1, #fields, 2 do
    if fields[i] == 'last-delivered-id' and fields[i + 1] ~= '0-0' then
      after = '(' .. fields[i + 1]
    end
  end
end
remove(redis.call('XRANGE', stream, after, '+', 'COUNT', PAGE))
return purged
