-- Small named values; loaded before the scripts that keep and read them. Each is a field in its kind's
-- hash: the time in ms at which it expires (8 bytes, big-endian; 0 for never), then the value.

-- The value in a field; nil if there is none or it has expired.
local function unexpired(field, now)
  if not field or #field < 8 then
    return nil
  end
  local high, low = struct.unpack('>I4I4', field)
  local over = high * 4294967296 + low
  return (over == 0 or over > now) and string.sub(field, 9) or nil
end

-- Keep a value, for `ttl_ms` unless that is 0, and forget a few expired ones.
local function keep_value(values, name, value, ttl_ms, now)
  local over = ttl_ms > 0 and now + ttl_ms or 0
  local head = struct.pack('>I4I4', math.floor(over / 4294967296), over % 4294967296)
  redis.call('HSET', values, name, head .. value)
  if ttl_ms > 0 then
    for _, other in ipairs(redis.call('HRANDFIELD', values, 5)) do
      if not unexpired(redis.call('HGET', values, other), now) then
        redis.call('HDEL', values, other)
      end
    end
  end
end
