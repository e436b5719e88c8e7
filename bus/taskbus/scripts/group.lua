-- A group that is made anew knows nothing of what was taken before: what has a lease or waits, and what stands before
-- such a one, is pending again and not read a second time.
local function create_group(inbox, agent, priority, leases)
  local farthest, ms, sequence = "0", 0, 0
  for _, delivery in ipairs(redis.call("ZRANGE", leases, 0, -1)) do
    local of, id = string.match(delivery, "^(%a+)/(.+)$")
    local a, b = string.match(id, "^(%d+)%-(%d+)$")
    a, b = tonumber(a), tonumber(b)
    if of == priority and (a > ms or (a == ms and b > sequence)) then farthest, ms, sequence = id, a, b end
  end
  redis.call("XGROUP", "CREATE", inbox, agent, farthest)
  if farthest == "0" then return end
  for _, entry in ipairs(redis.call("XRANGE", inbox, "-", farthest)) do
    redis.call("XCLAIM", inbox, agent, "bus", 0, entry[1], "FORCE", "JUSTID")
  end
end
