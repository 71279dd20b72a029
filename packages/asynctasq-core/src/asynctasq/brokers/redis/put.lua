-- Adds messages to a queue; one that is already in the queue is left as it is.
--
-- KEYS[1] stream    ready and running messages, fields `id` and `body` (and `extra`, see lease.lua)
-- KEYS[2] ids       hash: message id -> its stream entry, 'delayed' or 'dead'
-- KEYS[3] delayed   sorted set: message id by the time in ms at which it is due
-- KEYS[4] bodies    hash: message id -> body of a delayed message
-- ARGV    for each message: id, body, due time in ms or '' for immediately (at most 500 messages)
-- Returns how many were added.

return put(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV, 1)
