-- Begins a pause; an existing one of this name gets the new value.
--
-- KEYS[1] stream (as in put.lua); further ones in pausing.lua
-- ARGV[1] name, ARGV[2] value, ARGV[3] number of the name; 0 for the pause of the whole queue

local stream = KEYS[1]
keep_value(pauses_key(stream), ARGV[1], ARGV[2], 0, 0)
make_group(stream)
fence(stream)
note_waking(stream, tonumber(ARGV[3]), false)
