-- Takes deliveries from an agent's inbox and leases them, in one atomic step: a lost reply strands nothing, for the
-- lease runs out and the delivery is taken again. Lapsed leases first, then by priority.
--
-- KEYS  1 log   2 index   3 meta   4 held   5 leases   6... the inbox, one stream for each priority
-- ARGV  1 prefix   2 agent (and group)   3 consumer   4 at most so many   5 lease in milliseconds   6... priorities
-- Reply 1 for each stream of KEYS its last ID: where to wait for more
--       2 milliseconds until the next lease lapses, -1 without any
--       3 deliveries: {delivery, token, times, position, log entry, record of the task or ""}
--       4 what stood in the inbox and points at nothing that taskbus wrote: it was taken out
--
-- Who holds a delivery stands in `held`, so the group needs one consumer only, and none is left behind.

--[[TASK]]
local agent, consumer, limit, lease = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local log, index, meta, held, leases = unpack(KEYS, 1, 5)
local deliveries, missing = {}, {}

local function delivery_of(inbox)
  for i = 6, #KEYS do
    if KEYS[i] == inbox then return ARGV[i] end
  end
end

-- The log entry that an inbox entry points at, with the names of its task and recipient.
local function pointed_at(entry)
  if entry[2][1] ~= "at" or not string.find(entry[2][2], "^%d+%-%d+$") then return nil end
  local found = redis.call("XRANGE", log, entry[2][2], entry[2][2])[1]
  local value = {}
  for i = 1, found and #found[2] or 0, 2 do value[found[2][i]] = found[2][i + 1] end
  if value.id and value.type and value.from and value.to and value.task and value.body
    and (value.form or "xml") == "xml" then
    return found[2], value.task, value.to
  end
end

local function hold(inbox, entry, times)
  local delivery = delivery_of(inbox) .. "/" .. entry[1]
  local fields, name, recipient = pointed_at(entry)
  if not fields then
    missing[#missing + 1] = entry[2][2] or entry[1]
    redis.call("XACK", inbox, agent, entry[1])
    redis.call("XDEL", inbox, entry[1])
    redis.call("ZREM", leases, delivery)
    redis.call("HDEL", held, delivery)
    return
  end
  local token, till = mint(meta), string.format("%.0f", now() + lease)
  redis.call("ZADD", leases, till, delivery)
  redis.call("HSET", held, delivery, token .. " " .. consumer)
  local line = redis.call("HGET", index, "task:" .. name)
  if line then
    local task = read_task(name, line)
    if task.delivery == delivery and task.assignee == recipient then
      task.token, task.lease, task.consumer = token, till, consumer
      line = record_of(task)
      redis.call("HSET", index, "task:" .. name, line)
    end
  end
  deliveries[#deliveries + 1] = { delivery, token, times, entry[2][2], fields, line or "" }
end

local function claim(inbox, id)
  local claimed = redis.pcall("XCLAIM", inbox, agent, "bus", 0, id)
  local entry = not claimed.err and claimed[1]
  if not entry or not entry[2] then return false end
  local pending = redis.call("XPENDING", inbox, agent, id, id, 1)[1]
  hold(inbox, entry, pending and pending[4] or 2)
  return true
end

for _, delivery in ipairs(redis.call("ZRANGEBYSCORE", leases, "-inf", now(), "LIMIT", 0, limit)) do
  local priority, id = string.match(delivery, "^(%a+)/(.+)$")
  if not claim(ARGV[1] .. "inbox:" .. agent .. ":" .. priority, id) then
    -- Its entry is gone, or its group was destroyed: then it is read again below.
    redis.call("ZREM", leases, delivery)
    redis.call("HDEL", held, delivery)
  end
end

local function read(inbox, count)
  local found = redis.pcall("XREADGROUP", "GROUP", agent, "bus", "COUNT", count, "STREAMS", inbox, ">")
  if found and found.err then
    redis.call("XGROUP", "CREATE", inbox, agent, "0")
    found = redis.call("XREADGROUP", "GROUP", agent, "bus", "COUNT", count, "STREAMS", inbox, ">")
  end
  -- The servers answer {{stream, entries}}, or nothing; fakeredis 2.40 {stream, entries}, or an empty array.
  if not found or not found[1] then return {} end
  return type(found[1]) == "table" and found[1][2] or found[2]
end

local last, pending = {}, 0
for i = 6, #KEYS do
  local inbox = KEYS[i]
  if redis.call("EXISTS", inbox) == 1 then
    while #deliveries < limit do
      local entries = read(inbox, limit - #deliveries)
      if #entries == 0 then break end
      for _, entry in ipairs(entries) do hold(inbox, entry, 1) end
    end
    local info = redis.call("XINFO", "STREAM", inbox)
    for j = 1, #info, 2 do
      if info[j] == "last-generated-id" then last[i - 5] = info[j + 1] end
    end
    local summary = redis.pcall("XPENDING", inbox, agent)
    pending = pending + (not summary.err and summary[1] or 0)
  end
  last[i - 5] = last[i - 5] or "0-0"
end

-- Pending without a lease: a take that the server refused halfway, or leases that somebody removed.
if #deliveries == 0 and pending > redis.call("ZCARD", leases) then
  for i = 6, #KEYS do
    local strays = redis.pcall("XPENDING", KEYS[i], agent, "-", "+", 1000)
    for _, stray in ipairs(strays.err and {} or strays) do
      if #deliveries < limit and redis.call("HEXISTS", held, ARGV[i] .. "/" .. stray[1]) == 0 then
        claim(KEYS[i], stray[1])
      end
    end
  end
end
local nextlapse = redis.call("ZRANGE", leases, 0, 0, "WITHSCORES")[2]
return { last, nextlapse and math.max(0, math.ceil(tonumber(nextlapse) - now())) or -1, deliveries, missing }
