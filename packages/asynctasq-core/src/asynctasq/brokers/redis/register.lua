-- Registers the names of queues, so that they are listed.
--
-- KEYS[1] queues   set of queue names
-- ARGV    queue names
-- Returns why it was refused, or ''. Not an error: messages sent along with it must be kept.

local added = redis.pcall('SADD', KEYS[1], unpack(ARGV))
return type(added) == 'table' and added.err or ''
