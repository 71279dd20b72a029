-- Adding messages of which some ask for something; put before the scripts that do, and after lines.lua.

-- Add messages: `arguments[first...]` are id, body, due time in ms or '' for at once, and what it asks for
-- or '', of each. Returns {id, id of the message that has its unique key, ...} for those that were not
-- added for that.
local function put_asking(stream, ids, delayed, bodies, arguments, first)
  local lines, now = lines_of(stream, ids, delayed, bodies), now_ms()
  local after_ms, after_number = now - 1, 999999

  local function add_plain(id, body, due)
    local place
    if due == '' then
      place = add(stream, id, body, '')
      local ms, number = string.match(place, '^(%d+)-(%d+)$')
      after_ms, after_number = tonumber(ms), tonumber(number)
    else
      redis.call('ZADD', delayed, due, id)
      redis.call('HSET', bodies, id, body)
      place = 'delayed'
    end
    redis.call('HSET', ids, id, place)
  end

  local function add_asking(id, body, due, ask)
    local extra = to_asking(0, false, ask.text)
    if due == '' then
      enter(lines, id, ask, extra, body, new_order(lines, ask, 1, after_ms, after_number))
    else
      redis.call('ZADD', delayed, due, MARKED .. id)
      redis.call('HSET', bodies, MARKED .. id, to_record(extra, body))
      redis.call('HSET', ids, id, 'delayed' .. MARKED)
    end
    take_key(lines, id, ask, now)
  end

  -- Whether to add a message, and else who has its key.
  local function is_wanted(id, ask, place)
    if ask.unique == '' or (place and not ask.replaces) then
      return not place, nil
    end
    local holder = holder_of(lines, ask.unique, now)
    if not place then
      return not holder, holder
    end
    local state = locate(stream, ids, id)
    if holder ~= id or not is_asking_place(place) or (state ~= 'waiting' and state ~= 'delayed') then
      return false, holder or id
    end
    remove_asking(lines, id, place)
    return true, nil
  end

  local conflicts = {}
  for i = first, #arguments, 4 do
    local id, body, due, text = unpack(arguments, i, i + 3)
    local place = redis.call('HGET', ids, id)
    if text == '' then
      if not place then
        add_plain(id, body, due)
      end
    else
      local ask = asked(to_asking(0, false, text))
      local wanted, holder = is_wanted(id, ask, place)
      if wanted then
        add_asking(id, body, due, ask)
      elseif holder then
        conflicts[#conflicts + 1] = id
        conflicts[#conflicts + 1] = holder
      end
    end
  end
  look_again(lines, now)
  return conflicts
end

-- Whether the keys of a queue hold what they should.
local function may_put_asking(stream, ids, delayed, bodies)
  return is_sound(stream, ids, delayed, bodies)
    and lines_are_sound(lines_of(stream, ids, delayed, bodies))
end
