-- Gives deliveries back that a worker holds: each can be taken again after a wait, or at once.
--
-- KEYS  1 held   2 leases   3 index   4 bell
-- ARGV  1 consumer, then for each delivery: delivery, token, task, wait in milliseconds, "1" when it counts as a try,
--       reason
-- Reply 1 for each delivery that was held under that token, else 0
--
-- It stays in the inbox, with the end of the wait for its lease, and nobody to renew it. Idle workers look
-- every five seconds: for what is to be taken sooner they are woken, to take it or to see when they can.

--[[TASK]]
local consumer, replies, rings = ARGV[1], {}, false
for i = 2, #ARGV, 6 do
  local delivery, token, name, wait, counts, reason = unpack(ARGV, i, i + 5)
  local was, by, tries = string.match(redis.call("HGET", KEYS[1], delivery) or "", "^(%d+) (%S+) (%d+)")
  local ours = was == token and by == consumer
  if ours then
    redis.call("HSET", KEYS[1], delivery, token .. " - " .. (counts == "1" and tries or tries - 1) .. " " .. reason)
    redis.call("ZADD", KEYS[2], number(now() + tonumber(wait)), delivery)
    local line = redis.call("HGET", KEYS[3], "task:" .. name)
    local task = line and read_task(name, line)
    if task and task[TOKEN] == token and task[DELIVERY] == delivery then
      -- Nobody has it: whoever takes it up by hand may.
      task[LEASE], task[CONSUMER] = "0", "-"
      redis.call("HSET", KEYS[3], "task:" .. name, record_of(task))
    end
    rings = rings or tonumber(wait) < 5000
  end
  replies[#replies + 1] = ours and 1 or 0
end
if rings then redis.call("XADD", KEYS[4], "MAXLEN", 1, "*", "at", "0") end
return replies
