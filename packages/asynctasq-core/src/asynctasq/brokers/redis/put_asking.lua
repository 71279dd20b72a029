-- Add messages of which some ask for something; one that the queue holds already is left as it is,
-- unless its unique key lets it be replaced.
--
-- KEYS[1..4] stream, ids, delayed, bodies (as in put.lua); further ones in lines.lua
-- ARGV    for each message: id, body, due time in ms or '' for at once, what it asks for or ''
-- Returns {id, id of the message that has its unique key, ...} for those that were not added for that.

if not may_put_asking(unpack(KEYS, 1, 4)) then
  return redis.error_reply('WRONGTYPE a key of the queue holds another type')
end
return put_asking(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV, 1)
