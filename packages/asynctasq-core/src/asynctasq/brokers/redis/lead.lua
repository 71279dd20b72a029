-- Takes, renews or gives up a named lease.
--
-- KEYS[1] lead     string: who has it; '' for no one
-- ARGV[1] holder   who asks
-- ARGV[2] lifetime in ms from now; '0' gives it up
-- Returns 1 if the holder has it now, else 0.

local lead, holder, ttl_ms = KEYS[1], ARGV[1], ARGV[2]
local leader = redis.call('GET', lead)
if leader and leader ~= holder and leader ~= '' then
  return 0
end
if ttl_ms ~= '0' then
  redis.call('SET', lead, holder, 'PX', ttl_ms)
  return 1
end
if leader then
  redis.call('SET', lead, '', 'PX', 1)
end
return 0
