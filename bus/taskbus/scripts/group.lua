-- A group that is made anew does not read again what was taken before: it begins behind the last that has a lease. What
-- stands before that and has none is found by the next take that has nothing to read.
local function create_group(inbox, agent, priority, leases)
  local farthest, ms, sequence = "0", 0, 0
  for _, delivery in ipairs(redis.call("ZRANGE", leases, 0, -1)) do
    local of, id = string.match(delivery, "^(%a+)/(.+)$")
    local a, b = string.match(id, "^(%d+)%-(%d+)$")
    a, b = tonumber(a), tonumber(b)
    if of == priority and (a > ms or (a == ms and b > sequence)) then farthest, ms, sequence = id, a, b end
  end
  redis.call("XGROUP", "CREATE", inbox, agent, farthest)
end
