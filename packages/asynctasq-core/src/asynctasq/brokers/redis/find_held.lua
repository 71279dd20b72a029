-- Finds messages that are not dead, by id.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua); further ones in lines.lua
-- ARGV    message ids (at most 500)
-- Returns {number of ids looked at (at least one), {messages as in showing.lua}}.

local stream, ids, delayed, bodies = unpack(KEYS)
local lines, now = lines_of(stream, ids, delayed, bodies), now_ms()

local function find(id)
  local state, place = locate(stream, ids, id)
  if not state or state == 'dead' then
    return
  end
  local first = string.sub(place, 1, 1)
  if first == '@' then
    show_standing(bodies, id)
  elseif first == 'd' then
    local member = is_asking_place(place) and MARKED .. id or id
    local due = redis.call('ZSCORE', delayed, member)
    if not due then  -- it was postponed or parked, which keeps its delivery count
      member = MARKED .. id
      due = redis.call('ZSCORE', delayed, member)
    end
    if due then
      show_delayed(bodies, member, due, now)
    end
  else
    local leased = first == '*' and lines.admitted or stream
    local entry = first == '*' and string.sub(place, 2) or place
    local lease = pending(leased, entry, entry, 1)[1]
    if lease then
      show_lease(leased, lease)
    else
      local found = redis.call('XRANGE', leased, entry, entry)[1]
      show_entry(found and found[2], 'waiting', 0)
    end
  end
end

local looked_at = 0
for _, id in ipairs(ARGV) do
  if looked_at > 0 and budget <= 0 then
    break
  end
  find(id)
  looked_at = looked_at + 1
end
return {looked_at, reply}
