-- Reads what is counted of money as of one position of the log, or puts in its place what the log says as of one.
--
-- KEYS  1 log   2 budget   3 holds   4 meta
-- ARGV  none to read
--       else  1 the newest entry of the log that was counted: nothing is written when there is a newer one
--             2 how many fields of `budget` follow, each with its value; then those of `holds`
-- Reply the newest entry of the log, "0-0" where nothing is live, then to read: `budget`, `holds` and whether money was
--       ever counted, 1 or 0; to write: 1 when that was done, else 0

local call = redis.call
local newest = call("XREVRANGE", KEYS[1], "+", "-", "COUNT", 1)[1]
newest = newest and newest[1] or "0-0"
if #ARGV == 0 then
  return { newest, call("HGETALL", KEYS[2]), call("HGETALL", KEYS[3]), call("HEXISTS", KEYS[4], "budget") }
end
if newest ~= ARGV[1] then return { newest, 0 } end
call("DEL", KEYS[2], KEYS[3])
local fields = tonumber(ARGV[2]) * 2
for first = 3, fields + 2, 2000 do
  call("HSET", KEYS[2], unpack(ARGV, first, math.min(first + 1999, fields + 2)))
end
for first = fields + 3, #ARGV, 2000 do
  call("HSET", KEYS[3], unpack(ARGV, first, math.min(first + 1999, #ARGV)))
end
call("HSET", KEYS[4], "budget", "1")
return { newest, 1 }
