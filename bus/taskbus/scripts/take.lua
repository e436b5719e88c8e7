-- Takes deliveries from an agent's inbox and leases them, in one atomic step: a lost reply strands nothing, for the
-- lease runs out and the delivery is taken again. Lapsed leases first, then by priority.
--
-- KEYS  1 log   2 index   3 meta   4 held   5 leases   6... the inbox, one stream for each priority
-- ARGV  1 prefix   2 agent (and group)   3 consumer   4 at most so many   5 lease in milliseconds   6... priorities
-- Reply 1 for each stream of KEYS its last ID: where to wait for more
--       2 milliseconds until the next lease lapses, -1 without any
--       3 deliveries: {delivery, token, times, position, log entry, state of the task}
--       4 positions that the log does not hold: their deliveries were taken out of the inbox

--[[TASK]]
local prefix, agent, consumer, limit, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local log, index, meta, held, leases = unpack(KEYS, 1, 5)
local clock = redis.call("TIME")
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local deliveries, missing = {}, {}

local function hold(inbox, priority, entry, times)
  local delivery, position = priority .. "/" .. entry[1], entry[2][2]
  local found = redis.call("XRANGE", log, position, position)[1]
  if not found then
    missing[#missing + 1] = position
    redis.call("XACK", inbox, agent, entry[1])
    redis.call("XDEL", inbox, entry[1])
    redis.call("ZREM", leases, delivery)
    redis.call("HDEL", held, delivery)
    return
  end
  local token = redis.call("HINCRBY", meta, "token", 1)
  redis.call("HSET", held, delivery, token .. " " .. consumer)
  redis.call("ZADD", leases, now + lease, delivery)
  local fields, state = found[2], ""
  local name, recipient
  for i = 1, #fields, 2 do
    if fields[i] == "task" then name = fields[i + 1] elseif fields[i] == "to" then recipient = fields[i + 1] end
  end
  if name then
    local task = read_task(name, redis.call("HGET", index, "task:" .. name))
    state = task.state
    if task.delivery == delivery and task.assignee == recipient then
      task.token, task.lease, task.consumer = token, string.format("%.0f", now + lease), consumer
      redis.call("HSET", index, "task:" .. name, record_of(task))
    end
  end
  deliveries[#deliveries + 1] = { delivery, token, times, position, fields, state }
end

for _, delivery in ipairs(redis.call("ZRANGEBYSCORE", leases, "-inf", now, "LIMIT", 0, limit)) do
  local priority, id = string.match(delivery, "^(%a+)/(.+)$")
  local inbox = prefix .. "inbox:" .. agent .. ":" .. priority
  local entry = redis.call("XCLAIM", inbox, agent, consumer, 0, id)[1]
  if entry and entry[2] then
    local pending = redis.call("XPENDING", inbox, agent, id, id, 1)[1]
    hold(inbox, priority, entry, pending and pending[4] or 2)
  else
    redis.call("ZREM", leases, delivery)
    redis.call("HDEL", held, delivery)
  end
end

local last = {}
for i = 6, #KEYS do
  local inbox, priority = KEYS[i], ARGV[i]
  if redis.call("EXISTS", inbox) == 1 then
    local more = limit - #deliveries
    if more > 0 then
      local read = redis.pcall("XREADGROUP", "GROUP", agent, consumer, "COUNT", more, "STREAMS", inbox, ">")
      if read and read.err then
        redis.call("XGROUP", "CREATE", inbox, agent, "0")
        read = redis.call("XREADGROUP", "GROUP", agent, consumer, "COUNT", more, "STREAMS", inbox, ">")
      end
      -- The servers answer {{stream, entries}}, or nothing; fakeredis 2.40 {stream, entries}, or an empty array.
      if read and read[1] then
        local entries = type(read[1]) == "table" and read[1][2] or read[2]
        for _, entry in ipairs(entries) do hold(inbox, priority, entry, 1) end
      end
    end
    local info = redis.call("XINFO", "STREAM", inbox)
    for j = 1, #info, 2 do
      if info[j] == "last-generated-id" then last[i - 5] = info[j + 1] end
    end
  end
  last[i - 5] = last[i - 5] or "0-0"
end
local nextlapse = redis.call("ZRANGE", leases, 0, 0, "WITHSCORES")[2]
return { last, nextlapse and math.max(0, math.ceil(tonumber(nextlapse) - now)) or -1, deliveries, missing }
