-- Adds messages to a queue; loaded before the scripts that use it. A message that is already in the
-- queue is left as it is.

-- Add messages: `arguments[first...]` are, for each, its id, body and due time in ms ('' for
-- immediately).
-- Returns how many were added.
local function put(stream, ids, delayed, bodies, arguments, first)
  local names = {}
  for i = first, #arguments, 3 do
    names[#names + 1] = arguments[i]
  end
  local known = redis.call('HMGET', ids, unpack(names))
  local places, due, delayed_bodies, seen = {}, {}, {}, {}
  for i, id in ipairs(names) do
    if not known[i] and not seen[id] then
      seen[id] = true
      local body, at = arguments[first + 3 * i - 2], arguments[first + 3 * i - 1]
      places[#places + 1] = id
      if at == '' then
        places[#places + 1] = redis.call('XADD', stream, '*', 'id', id, 'body', body)
      else
        places[#places + 1] = 'delayed'
        due[#due + 1] = at
        due[#due + 1] = id
        delayed_bodies[#delayed_bodies + 1] = id
        delayed_bodies[#delayed_bodies + 1] = body
      end
    end
  end
  if #due > 0 then
    redis.call('ZADD', delayed, unpack(due))
    redis.call('HSET', bodies, unpack(delayed_bodies))
  end
  if #places > 0 then
    redis.call('HSET', ids, unpack(places))
  end
  return #places / 2
end
