-- Renews the leases of deliveries that a worker still holds.
--
-- KEYS  1 held   2 leases   3 index
-- ARGV  1 consumer   2 lease in milliseconds, then for each delivery: delivery, token, task
-- Reply 1 for each delivery that is still held under that token, else 0

--[[TASK]]
local consumer, till = ARGV[1], string.format("%.0f", now() + tonumber(ARGV[2]))
local replies = {}
for i = 3, #ARGV, 3 do
  local delivery, token, name = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local kept = redis.call("HGET", KEYS[1], delivery) == token .. " " .. consumer
  if kept then
    redis.call("ZADD", KEYS[2], till, delivery)
    local line = redis.call("HGET", KEYS[3], "task:" .. name)
    local task = line and read_task(name, line)
    if task and task.token == token then
      task.lease = till
      redis.call("HSET", KEYS[3], "task:" .. name, record_of(task))
    end
  end
  replies[#replies + 1] = kept and 1 or 0
end
return replies
