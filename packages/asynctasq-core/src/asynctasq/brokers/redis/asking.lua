-- Adds messages, some of which ask for something; loaded before the scripts that use it, after
-- lines.lua.

-- Add messages: `arguments[first...]` are, for each, its id, body, due time in ms ('' for immediately)
-- and what it asks for ('' for nothing). Returns {id, id of its unique key's holder, ...} for those
-- that were not added because their key is taken.
local function put_asking(stream, ids, delayed, bodies, arguments, first)
  local lines, now = lines_of(stream, ids, delayed, bodies), now_ms()
  local after_ms, after_number = now - 1, 999999

  -- What must be written, in few commands for all messages; and what later reads would find of it.
  local places, records, open_members, members = {}, {}, {}, {}
  local due_members, due_bodies, keys = {}, {}, {}
  local placed, taken, first_in = {}, {}, {}

  local function append(list, first, second)
    list[#list + 1] = first
    list[#list + 1] = second
  end

  local function write_all()
    for _, write in ipairs({
      {'HSET', bodies, records}, {'HSET', bodies, due_bodies}, {'ZADD', delayed, due_members},
      {'ZADD', lines.open, open_members}, {'ZADD', lines.judging, members},
      {'HSET', lines.unique, keys}, {'HSET', ids, places},
    }) do
      in_groups(write[1], write[2], write[3])
    end
    places, records, open_members, members, due_members, due_bodies, keys = {}, {}, {}, {}, {}, {}, {}
    taken, first_in = {}, {}
  end

  local function place(id, where)
    append(places, id, where)
    placed[id] = where
  end

  local function add_plain(id, body, due)
    if due == '' then
      local entry = add(stream, id, body, '')
      local ms, number = string.match(entry, '^(%d+)-(%d+)$')
      after_ms, after_number = tonumber(ms), tonumber(number)
      place(id, entry)
    else
      append(due_members, due, id)
      append(due_bodies, id, body)
      place(id, 'delayed')
    end
  end

  -- Join a line; returns whether the message is the first in it.
  local function is_first(ask, own)
    if not ask.has_line then
      return true
    end
    local line = ask.line
    first_in[line] = first_in[line] or first_of(lines, line)[1] or own
    local is_first = own <= first_in[line]
    first_in[line] = is_first and own or first_in[line]
    append(members, 0, own)
    return is_first
  end

  local function take(id, ask)
    if ask.unique ~= '' then
      local over = ask.lasts > 0 and now + ask.lasts or 0
      append(keys, ask.unique, string.format('%014.0f', over) .. id)
      taken[ask.unique] = id
      if over > 0 then
        redis.call('ZADD', lines.timers, over, 'U' .. ask.unique)
      end
    end
  end

  local function add_asking(id, body, due, ask, serial)
    local record = to_record(to_asking(0, false, ask.text), body)
    append(records, MARKED .. id, record)
    if due == '' then
      local order = new_order(lines, ask, 1, after_ms, after_number, serial)
      if is_first(ask, ask.line .. order .. id) then
        append(open_members, 0, order .. id)
        place(id, '@O' .. order)
      else
        place(id, '@B' .. order)
      end
    else
      append(due_members, due, MARKED .. id)
      place(id, 'delayed' .. MARKED)
    end
  end

  -- What stands in `unique`, by key; empty once that may have changed.
  local standing = {}

  local function holder_now(key)
    local text = standing[key]
    if taken[key] or text ~= nil then
      return taken[key] or holder_in(text, now)
    end
    return holder_of(lines, key, now)
  end

  -- Whether to add a message; if not, who holds its key.
  local function is_wanted(id, ask, known)
    if ask.unique == '' or (known and not ask.replaces) then
      return not known, nil
    end
    local holder = holder_now(ask.unique)
    if not known then
      return not holder, holder
    end
    write_all()
    standing = {}
    local state = locate(stream, ids, id)
    if holder ~= id or not is_asking_place(known) or (state ~= 'waiting' and state ~= 'delayed') then
      return false, holder or id
    end
    remove_asking(lines, id, known)
    return true, nil
  end

  local names, asks, unique_keys = {}, {}, {}
  for i = first, #arguments, 4 do
    local ask = arguments[i + 3] ~= '' and asked_by(arguments[i + 3])
    names[#names + 1] = arguments[i]
    asks[#names] = ask
    if ask and ask.unique ~= '' then
      unique_keys[#unique_keys + 1] = ask.unique
    end
  end
  if #unique_keys > 0 then
    for i, text in ipairs(redis.call('HMGET', lines.unique, unpack(unique_keys))) do
      standing[unique_keys[i]] = text
    end
  end
  local known_places = redis.call('HMGET', ids, unpack(names))
  local serial = redis.call('HINCRBY', lines.rates, MARKED, #names) - #names

  local conflicts = {}
  for i = first, #arguments, 4 do
    local id, body, due, n = arguments[i], arguments[i + 1], arguments[i + 2], (i - first) / 4 + 1
    local ask, known = asks[n], placed[id] or known_places[n]
    serial = serial + 1
    if not ask then
      if not known then
        add_plain(id, body, due)
      end
    else
      local wanted, holder = is_wanted(id, ask, known)
      if wanted then
        add_asking(id, body, due, ask, serial)
        take(id, ask)
      elseif holder then
        conflicts[#conflicts + 1] = id
        conflicts[#conflicts + 1] = holder
      end
    end
  end
  write_all()
  look_again(lines, now)
  return conflicts
end

-- Whether the keys of a queue have the expected types.
local function may_put_asking(stream, ids, delayed, bodies)
  return is_sound(stream, ids, delayed, bodies)
    and lines_are_sound(lines_of(stream, ids, delayed, bodies))
end
