local clock
local function now()
  if not clock then
    local t = redis.call("TIME")
    clock = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return clock
end

-- A whole number as it is written: "%d" is less than half the work of "%.0f".
local function number(value) return string.format("%d", value) end

-- Fencing tokens: greater than each one before, also than those that a restored or truncated log has forgotten. So
-- many as the call can need are put aside at once.
local newest
local function mint(meta, most)
  if not newest then
    newest = math.max(tonumber(redis.call("HGET", meta, "token") or 0), now() - 1)
    redis.call("HSET", meta, "token", number(newest + most))
  end
  newest = newest + 1
  return number(newest)
end
