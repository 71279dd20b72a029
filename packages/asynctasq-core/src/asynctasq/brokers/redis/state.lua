-- Where a message is.
--
-- KEYS[1] stream, KEYS[2] ids (as in put.lua)
-- ARGV[1] message id
-- Returns 'waiting', 'running', 'delayed', 'dead' or nil.

return (locate(KEYS[1], KEYS[2], ARGV[1]))
