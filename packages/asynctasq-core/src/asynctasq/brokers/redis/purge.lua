-- Delete messages that are waiting or delayed; call again until it returns 0.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua)
-- Returns how many were deleted, at most 100 of each kind.

local PAGE = 100
local stream, ids, delayed, bodies = unpack(KEYS)
local purged = 0

local function remove(entry)
  redis.pcall('XACK', stream, GROUP, entry[1])
  redis.call('XDEL', stream, entry[1])
  redis.call('HDEL', ids, entry[2][2])
  purged = purged + 1
  budget = budget - size_of(entry)
end

local later = redis.call('ZRANGE', delayed, 0, PAGE - 1)
if #later > 0 then
  redis.call('ZREM', delayed, unpack(later))
  redis.call('HDEL', bodies, unpack(later))
  for i, member in ipairs(later) do
    later[i] = id_of(member)
  end
  redis.call('HDEL', ids, unpack(later))
  purged = #later
end

for _, lease in ipairs(pending(stream, '-', '+', PAGE, RELEASED)) do
  local entry = budget > 0 and redis.call('XRANGE', stream, lease[1], lease[1])[1]
  if entry then
    remove(entry)
  end
end

local after = '-'
local groups = redis.pcall('XINFO', 'GROUPS', stream)
for _, fields in ipairs(groups.err and {} or groups) do
  for i = 1, #fields, 2 do
    if fields[i] == 'last-delivered-id' and fields[i + 1] ~= '0-0' then
      after = '(' .. fields[i + 1]
    end
  end
end
for _ = 1, PAGE do
  local entry = budget > 0 and redis.call('XRANGE', stream, after, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  remove(entry)
end
return purged
