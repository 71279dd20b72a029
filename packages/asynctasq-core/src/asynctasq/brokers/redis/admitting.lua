-- Judges open messages and lets them pass, many at once; loaded before the sweep, after lines.lua.
--
-- Changes to `open`, `judging`, `held`, `ids`, `rates` and `timers` are collected here and written in
-- few commands at the end (`write`). Until then nothing else may write there, except `park` and
-- `open_parked` for messages that have no collected changes.

local Admission = {}
Admission.__index = Admission

local function new_admission(lines, now)
  local some_parked = first_of(lines, 'L')[1] or first_of(lines, 'R')[1]
  return setmetatable({
    lines = lines, now = now,
    -- The first open messages, as order and id, from index `at` on; all of them if `has_all`.
    heads = {}, at = 1, has_all = false,
    -- Order and id of messages that were opened but not written yet.
    opened = {},
    gone = {}, gone_from_lines = {},
    -- By line: the first message in it once those that are gone are removed.
    first = {},
    -- By limit: how many messages hold it; and which of these numbers must be written.
    held = {}, changed = {},
    -- By rate: until when it is used up; and what must be written about it.
    used_up = {}, rates = {}, timers = {},
    some_parked = some_parked ~= nil,
  }, Admission)
end

function Admission:write()
  local lines, places, opened, held = self.lines, {}, {}, {}
  for member in pairs(self.opened) do
    local order, id = parts_of(member, '')
    opened[#opened + 1] = 0
    opened[#opened + 1] = member
    places[#places + 1] = id
    places[#places + 1] = '@O' .. order
  end
  for limit in pairs(self.changed) do
    held[#held + 1] = limit
    held[#held + 1] = self.held[limit]
  end
  if #self.gone > 0 then
    redis.call('ZREM', lines.open, unpack(self.gone))
  end
  if #self.gone_from_lines > 0 then
    redis.call('ZREM', lines.judging, unpack(self.gone_from_lines))
  end
  if #opened > 0 then
    redis.call('ZADD', lines.open, unpack(opened))
    redis.call('HSET', lines.ids, unpack(places))
  end
  if #held > 0 then
    redis.call('HSET', lines.held, unpack(held))
  end
  if #self.rates > 0 then
    redis.call('HSET', lines.rates, unpack(self.rates))
    redis.call('ZADD', lines.timers, unpack(self.timers))
  end
  self.opened, self.gone, self.gone_from_lines, self.changed = {}, {}, {}, {}
  self.rates, self.timers = {}, {}
end

-- The first open message, as order and id; nil if there is none.
function Admission:head(most)
  if self.at > #self.heads then
    if self.has_all then
      return nil
    end
    self:write()
    self.at = 1
    self.heads = first_open(self.lines, most)
    self.has_all = #self.heads < most
  end
  return self.heads[self.at]
end

-- Insert a newly opened message in order, unless it comes after all that have been read.
function Admission:add_head(member)
  local heads, i = self.heads, #self.heads
  if not member or (not self.has_all and (i < self.at or member > heads[i])) then
    return
  end
  while i >= self.at and heads[i] > member do
    heads[i + 1] = heads[i]
    i = i - 1
  end
  heads[i + 1] = member
end

function Admission:open_parked(ask)
  if self.some_parked then
    self:add_head(open_parked(self.lines, 'L', ask.limit))
    self:add_head(open_parked(self.lines, 'R', ask.rate))
  end
end

function Admission:park(member, order, id, kind, key)
  self.at = self.at + 1
  self.opened[member] = nil
  self.some_parked = true
  park(self.lines, id, order, kind, key)
end

function Admission:count(limit)
  if not self.held[limit] then
    self.held[limit] = tonumber(redis.call('HGET', self.lines.held, limit) or 0) or 0
  end
  return self.held[limit]
end

-- Whether the head may pass now; if so, count it, else park it.
function Admission:may_pass(member, order, id, ask, counted)
  local lines, now = self.lines, self.now
  if ask.has_limit and self:count(ask.limit) >= ask.most then
    self:park(member, order, id, 'L', ask.limit)
    self:add_head(open_parked(lines, 'R', ask.rate))
    return false
  end
  if ask.has_rate and not counted then
    local tat = self.used_up[ask.rate] or tat_of(lines, ask.rate)
    local slack = (ask.burst - 1) * ask.interval
    local opens = tat - slack
    if opens > now then
      self:park(member, order, id, 'R', ask.rate)
      redis.call('ZADD', lines.timers, 'LT', math.ceil(opens), 'R' .. ask.rate)
      self:add_head(open_parked(lines, 'L', ask.limit))
      return false
    end
    tat = math.max(now, tat) + ask.interval
    self.used_up[ask.rate] = tat
    self.rates[#self.rates + 1] = ask.rate
    self.rates[#self.rates + 1] = string.format('%.3f %.3f', tat, tat - slack)
    self.timers[#self.timers + 1] = math.ceil(tat)
    self.timers[#self.timers + 1] = 'T' .. ask.rate
  end
  if ask.has_limit then
    self.held[ask.limit] = self.held[ask.limit] + 1
    self.changed[ask.limit] = true
  end
  return true
end

-- The head has passed: remove it from its line and open the next one.
function Admission:leave(member, order, id, ask)
  self.at = self.at + 1
  if self.opened[member] then
    self.opened[member] = nil
  else
    self.gone[#self.gone + 1] = member
  end
  if ask.has_line then
    local own = ask.line .. member
    self.gone_from_lines[#self.gone_from_lines + 1] = own
    self:open_next(ask.line, own)
  end
  self:open_parked(ask)
end

function Admission:open_next(line, own)
  local first, following = self.first[line], nil
  if not first then
    local two = first_of(self.lines, line, 2)
    if two[1] ~= own then
      self:write()  -- so that the next look at the line no longer sees this message
      return
    end
    following = two[2]
  elseif first == own then
    following = redis.call('ZRANGEBYLEX', self.lines.judging, '(' .. own, '(' .. line .. '\255',
      'LIMIT', 0, 1)[1]
  else
    return
  end
  self.first[line] = following or ''
  if following then
    local its_order, its_id = parts_of(following, line)
    if string.sub(redis.call('HGET', self.lines.ids, its_id) or '', 1, 2) == '@B' then
      self.opened[its_order .. its_id] = true
      self:add_head(its_order .. its_id)
    end
  end
end

-- Admit the head; returns its entry with its fields, or nil if it may not pass.
function Admission:admit(member)
  local lines = self.lines
  local order, id = parts_of(member, '')
  local record = redis.call('HGET', lines.bodies, MARKED .. id)
  if not record then
    self.at = self.at + 1
    self.opened[member] = nil
    redis.call('ZREM', lines.open, member)
    return nil
  end
  local extra, body = from_record(record)
  local ask = asked(extra)
  if not self:may_pass(member, order, id, ask, is_counted(extra)) then
    return nil
  end
  self:leave(member, order, id, ask)
  extra = to_asking(earlier(extra), true, ask.text)
  local entry = redis.call(
    'XADD', lines.admitted, '*', 'id', id, 'body', body, 'extra', extra)
  if ask.until_started then
    free_key(lines, id, ask)
  end
  budget = budget - #body
  return {entry, {'id', id, 'body', body, 'extra', extra}}
end
