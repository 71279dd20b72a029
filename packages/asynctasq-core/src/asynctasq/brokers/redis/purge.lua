-- Deletes messages that are waiting or delayed; call again until it returns 0.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua); further ones in lines.lua
-- Returns how many were deleted, at most a few hundred.

local PAGE = 100
local stream, ids, delayed, bodies = unpack(KEYS)
local purged = 0
local lines = nil

local function remove(entry)
  redis.pcall('XACK', stream, GROUP, entry[1])
  redis.call('XDEL', stream, entry[1])
  redis.call('HDEL', ids, entry[2][2])
  purged = purged + 1
  budget = budget - size_of(entry)
end

-- Remove a page of the messages that ask for something.
local function remove_all_asking()
  lines = lines_of(stream, ids, delayed, bodies)
  drop_wake_up(lines)
  local found = {}
  for _, member in ipairs(first_open(lines, PAGE)) do
    found[#found + 1] = string.sub(member, 1 + ORDER_LENGTH)
  end
  for _, kind in ipairs({'L', 'R', 'B'}) do
    for _, member in ipairs(first_of(lines, kind, PAGE)) do
      local head = string.match(member, kind == 'B' and '^.[^%z]*%z[^%z]*%z' or '^.[^%z]*%z') or ''
      found[#found + 1] = string.sub(member, #head + 1 + ORDER_LENGTH)
    end
  end
  for _, lease in ipairs(pending(lines.admitted, '-', '+', PAGE, RELEASED)) do
    local entry = redis.call('XRANGE', lines.admitted, lease[1], lease[1])[1]
    found[#found + 1] = entry and entry[2][2]
  end
  for _, id in ipairs(found) do
    local place = budget > 0 and redis.call('HGET', ids, id)
    if place and is_asking_place(place) then
      remove_asking(lines, id, place)
      redis.call('HDEL', ids, id)
      purged = purged + 1
    end
  end
end

if redis.call('ZSCORE', delayed, MARKED) then
  remove_all_asking()
end

local later, plain = redis.call('ZRANGE', delayed, 0, PAGE), {}
for _, member in ipairs(later) do
  local id = id_of(member)
  local is_looked_up = is_marked(member) and id ~= ''
  if is_looked_up and budget <= 0 then
    break
  end
  local place = is_looked_up and redis.call('HGET', ids, id)
  if place and is_asking_place(place) then
    lines = lines or lines_of(stream, ids, delayed, bodies)
    remove_asking(lines, id, place)
    redis.call('HDEL', ids, id)
    purged = purged + 1
  elseif member ~= MARKED then
    plain[#plain + 1] = member
  end
end
if #plain > 0 then
  redis.call('ZREM', delayed, unpack(plain))
  redis.call('HDEL', bodies, unpack(plain))
  purged = purged + #plain
  for i, member in ipairs(plain) do
    plain[i] = id_of(member)
  end
  redis.call('HDEL', ids, unpack(plain))
end

for _, lease in ipairs(pending(stream, '-', '+', PAGE, RELEASED)) do
  local entry = budget > 0 and redis.call('XRANGE', stream, lease[1], lease[1])[1]
  if entry then
    remove(entry)
  end
end

local read = fence_of(stream) or last_read(stream) or '0-0'
local after = read == '0-0' and '-' or '(' .. read
for _ = 1, PAGE do
  local entry = budget > 0 and redis.call('XRANGE', stream, after, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  remove(entry)
end
if lines then
  look_again(lines, now_ms())
end
return purged
