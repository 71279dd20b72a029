-- Adds messages, some of which ask for something; one that is already in the queue is left as it is,
-- unless its unique key allows replacing it.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua); further ones in lines.lua
-- ARGV    for each message: id, body, due time in ms or '' for immediately, what it asks for or ''
-- Returns {id, id of its unique key's holder, ...} for those not added because their key is taken.

if not may_put_asking(unpack(KEYS, 1, 4)) then
  return redis.error_reply('WRONGTYPE a key of the queue holds another type')
end
return put_asking(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV, 1)
