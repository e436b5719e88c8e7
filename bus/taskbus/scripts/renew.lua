-- Renews the leases of deliveries that a worker still holds.
--
-- KEYS  1 held   2 leases   3 index
-- ARGV  1 lease in milliseconds, then for each delivery: delivery, token, task
-- Reply 1 for each delivery that is still held under that token, else 0

--[[TASK]]
local index, lease = KEYS[3], tonumber(ARGV[1])
local clock = redis.call("TIME")
local till = clock[1] * 1000 + math.floor(clock[2] / 1000) + lease
local replies = {}
for i = 2, #ARGV, 3 do
  local delivery, token, name = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local current = redis.call("HGET", KEYS[1], delivery)
  local kept = current and string.match(current, "^(%d+) ") == token
  if kept then
    redis.call("ZADD", KEYS[2], till, delivery)
    local task = read_task(name, redis.call("HGET", index, "task:" .. name))
    if task.token == token then
      task.lease = string.format("%.0f", till)
      redis.call("HSET", index, "task:" .. name, record_of(task))
    end
  end
  replies[#replies + 1] = kept and 1 or 0
end
return replies
