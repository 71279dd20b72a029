-- Finds the commands used by the other scripts that this user may not run. A right missing halfway
-- through a script would leave it half applied, so workers check before they begin.
--
-- KEYS[1] probe   a key that nothing else uses; it exists for a millisecond at most
-- Returns the commands that are denied.

local probe = KEYS[1]
local calls = {
  {'GET', probe}, {'PUBLISH', probe, ''}, {'TIME'},
  {'XADD', probe, 'NOMKSTREAM', '*', 'id', ''}, {'XDEL', probe, '0-1'}, {'XLEN', probe},
  {'XRANGE', probe, '-', '+'}, {'XACK', probe, GROUP, '0-1'},
  {'XCLAIM', probe, GROUP, RELEASED, 0, '0-1'}, {'XPENDING', probe, GROUP},
  {'XREADGROUP', 'GROUP', GROUP, RELEASED, 'STREAMS', probe, '>'},
  {'XREAD', 'STREAMS', probe, '$'}, {'XGROUP', 'CREATE', probe, GROUP, '0'}, {'XGROUP', 'DELCONSUMER', probe, GROUP, RELEASED},
  {'XGROUP', 'SETID', probe, GROUP, '0'}, {'XINFO', 'STREAM', probe},
  {'XINFO', 'CONSUMERS', probe, GROUP}, {'XINFO', 'GROUPS', probe},
  {'HGET', probe, 'id'}, {'HMGET', probe, 'id'}, {'HSET', probe, 'id', ''}, {'HDEL', probe, 'id'},
  {'HGETALL', probe}, {'HRANDFIELD', probe, 1}, {'HEXISTS', probe, 'id'}, {'HLEN', probe},
  {'HINCRBY', probe, 'id', 'x'}, {'ZRANGEBYLEX', probe, '-', '+'}, {'ZLEXCOUNT', probe, '-', '+'},
  {'HSCAN', probe, 0},
  {'ZADD', probe, 'XX', 0, 'id'}, {'ZREM', probe, 'id'}, {'ZCARD', probe}, {'ZSCORE', probe, 'id'},
  {'ZMSCORE', probe, 'id'}, {'ZRANGE', probe, 0, 0}, {'ZREVRANGE', probe, 0, 0},
  {'ZRANGEBYSCORE', probe, 0, 0}, {'ZCOUNT', probe, 0, 0}, {'ZRANK', probe, 'id'}, {'SMEMBERS', probe},
  -- SADD would create a set; on the key of another type that SET has just made, it changes nothing.
  {'SET', probe, '', 'PX', 1}, {'SADD', probe, ''},
}
local denials = {"NOPERM", "user executing the script can't", 'ACL failure in script'}

local function is_denied(call)
  local reply = redis.pcall(unpack(call))
  local refusal = type(reply) == 'table' and reply.err or ''
  for _, text in ipairs(denials) do
    if string.find(refusal, text, 1, true) then
      return true
    end
  end
  return false
end

local denied = {}
for _, call in ipairs(calls) do
  if (call[1] ~= 'SADD' or #denied == 0) and is_denied(call) then
    denied[#denied + 1] = call[1]
  end
end
return denied
