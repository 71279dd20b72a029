-- Note the names of queues, so that they are listed.
--
-- KEYS[1] queues   set of queue names
-- ARGV    queue names
-- Returns what refuses it, or ''. It is no error: the messages that go out with it are kept.

local added = redis.pcall('SADD', KEYS[1], unpack(ARGV))
return type(added) == 'table' and added.err or ''
