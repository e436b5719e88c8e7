-- Forgets a worker that has ended, unless deliveries are still leased to it; keeps when its agent had one last.
--
-- KEYS  1 held   2 workers   3 meta
-- ARGV  1 agent   2 consumer
-- Reply 1 when it is forgotten, else 0

--[[TASK]]
for _, holder in ipairs(redis.call("HVALS", KEYS[1])) do
  if string.match(holder, "^%d+ (%S+)") == ARGV[2] then return 0 end
end
if redis.call("ZREM", KEYS[2], ARGV[1] .. " " .. ARGV[2]) == 1 then
  redis.call("HSET", KEYS[3], "seen:" .. ARGV[1], number(now()))
end
redis.call("HDEL", KEYS[3], "took:" .. ARGV[2])
return 1
