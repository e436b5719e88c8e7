-- Renews the leases of deliveries that a worker still holds, and notes that the worker was seen.
--
-- KEYS  1 held   2 leases   3 index   4 workers   5 bell   6... the inbox, one stream for each priority
-- ARGV  1 agent   2 consumer   3 lease in milliseconds, then for each delivery: delivery, token, task
-- Reply 1 for each delivery: 1 when it is still held under that token, else 0
--       2 last IDs of the bell and of each stream of the inbox: what comes after them may take a delivery away

--[[TASK]]
--[[INBOX]]
local agent, consumer, till = ARGV[1], ARGV[2], number(now() + tonumber(ARGV[3]))
local replies = {}
for i = 4, #ARGV, 3 do
  local delivery, token, name = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local kept = string.find(redis.call("HGET", KEYS[1], delivery) or "", token .. " " .. consumer .. " ", 1, true) == 1
  if kept then
    redis.call("ZADD", KEYS[2], till, delivery)
    local line = redis.call("HGET", KEYS[3], "task:" .. name)
    local task = line and read_task(name, line)
    if task and task[TOKEN] == token and task[DELIVERY] == delivery then
      task[LEASE] = till
      redis.call("HSET", KEYS[3], "task:" .. name, record_of(task))
    end
  end
  replies[#replies + 1] = kept and 1 or 0
end
redis.call("ZADD", KEYS[4], now(), agent .. " " .. consumer)
local last = {}
for i = 5, #KEYS do last[#last + 1] = ending(KEYS[i]) end
return { replies, last }
