-- Ends a pause and resumes some of the messages parked under its name: they become due before all
-- others, in their order. Call again until it returns fewer than asked for; sweeps resume what is left if
-- nobody does.
--
-- KEYS[1] stream, KEYS[2] ids, KEYS[3] delayed (as in put.lua); further ones in pausing.lua
-- ARGV[1] name
-- ARGV[2] number of the name; 0 for the pause of the whole queue, under which nothing is parked
-- ARGV[3] maximum number of messages to resume
-- Returns {1 if there was such a pause else 0, how many were resumed}.

local stream, ids, delayed = unpack(KEYS)
local number, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local was_paused = redis.call('HDEL', pauses_key(stream), ARGV[1])
if redis.call('HLEN', pauses_key(stream)) == 0 and (fence_of(stream) or last_read(stream) == FENCE) then
  lift(stream)  -- even if the fence is gone, which others may have deleted
  redis.pcall('HDEL', fence_key(stream), 'at')
end
local woken = number > 0 and wake(stream, delayed, number, most) or 0
-- Add an entry that wakes a consumer, and the mark that lets a sweep drop it, as in lines.lua.
if (was_paused == 1 or woken > 0) and redis.call('HEXISTS', ids, MARKED) == 0 then
  redis.call('HSET', ids, MARKED, redis.call('XADD', stream, '*', 'wake', ''))
  redis.call('ZADD', delayed, 0, MARKED)
end
return {was_paused, woken}
