-- Notes how far a projection has folded the log: what it has not folded is not trimmed.
--
-- KEYS  1 projections
-- ARGV  1 name   2 position

--[[CLOCK]]
redis.call("HSET", KEYS[1], ARGV[1], ARGV[2] .. " " .. number(now()))
return 1
