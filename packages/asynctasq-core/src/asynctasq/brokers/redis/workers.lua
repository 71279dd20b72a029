-- The workers that count as alive.
--
-- KEYS[1] alive, KEYS[2] workers (as in announce.lua)
-- Returns their JSON.

local alive = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now_ms(), '+inf', 'LIMIT', 0, 5000)
if #alive == 0 then
  return {}
end
return redis.call('HMGET', KEYS[2], unpack(alive))
