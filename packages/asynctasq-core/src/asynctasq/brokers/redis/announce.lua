-- Records a worker's sign of life and the names of its queues.
--
-- KEYS[1] alive    sorted set: worker id by the time in ms until which it counts as alive
-- KEYS[2] workers  hash: worker id -> JSON
-- KEYS[3] queues   set of queue names
-- ARGV[1] worker id
-- ARGV[2] ms until the next sign of life must have come; '0' withdraws the worker
-- ARGV[3] JSON
-- ARGV[4...] queue names
-- Returns 1, or 0 if one of the keys holds another type and the worker is not listed.

local alive, workers, queues = KEYS[1], KEYS[2], KEYS[3]
if not (is_of_type({'ZCARD', alive}) and is_of_type({'HGET', workers, ''})) then
  return 0
end
local now = now_ms()
local gone = redis.call('ZRANGEBYSCORE', alive, '-inf', now, 'LIMIT', 0, 500)
-- Always remove the worker itself: when memory is exhausted, Redis refuses a script whose first write
-- could grow memory, and a worker that cannot start could never empty the server.
gone[#gone + 1] = ARGV[1]
redis.call('ZREM', alive, unpack(gone))
redis.call('HDEL', workers, unpack(gone))
if ARGV[2] ~= '0' then
  local added = redis.pcall('SADD', queues, unpack(ARGV, 4))
  if type(added) == 'table' and added.err then
    return string.find(added.err, 'WRONGTYPE', 1, true) and 0 or added
  end
  redis.call('HSET', workers, ARGV[1], ARGV[3])
  redis.call('ZADD', alive, now + ARGV[2], ARGV[1])
end
return 1
