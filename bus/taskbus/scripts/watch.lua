-- Looks for what was not done in time. Whoever looks composes an escalation of each finding and appends it under the
-- record that stands here: when the task has changed since, or somebody else was first, that is refused.
--
-- KEYS  1 log   2 index   3 meta   4 agents   5 workers   6 deadlines   7 escalations   8 holds
-- ARGV  1 prefix   2 interval: nothing is looked at when somebody looked since   3 acknowledge   4 lost   5 silent
--       6 stale, all in milliseconds   7 at most so many findings of a kind   8 agents that have no workers, "|@a|@b|"
-- Reply 1 findings: {"deadline"|"stale", task, record}   {"unacknowledged", task, record, agent, since}
--       {"lost", task, record, agent, since, consumer}   {"behind", task, record, agent, since}
--       {"silent", task, record, agent, since, how many wait, the ID that its escalation is to have}
--         {"hold", task, record, agent, since, the line of money that is reserved for a run that is over}
--       2 how many looks go through the longest inbox: a page at a time, from where the last look ended

--[[TASK]]
local call, match = redis.call, string.match
local log, index, meta, agents, workers, deadlines, escalations, holds = unpack(KEYS, 1, 8)
local prefix, interval = ARGV[1], tonumber(ARGV[2])
local acknowledge, lost, silent, stale, most = unpack(ARGV, 3, 7)
local PAGE = 200
local GONE = math.max(600000, silent)
local findings, found, pages = {}, {}, 1

if now() - tonumber(call("HGET", meta, "watched") or 0) < interval then return { findings, pages } end
call("HSET", meta, "watched", number(now()))

local function record(name)
  local line = call("HGET", index, "task:" .. name)
  return line and read_task(name, line), line
end

local function find(kind, name, ...)
  findings[#findings + 1] = { kind, name, ... }
  found[name] = true
end

local function is_one_of(state, states) return string.find(states, "|" .. state .. "|", 1, true) end

for _, name in ipairs(call("ZRANGEBYSCORE", deadlines, "-inf", now(), "LIMIT", 0, most)) do
  local task, line = record(name)
  if task and is_one_of(task[STATE], "|submitted|working|input-required|") then
    find("deadline", name, line)
  else
    call("ZREM", deadlines, name)
  end
end
for _, name in ipairs(call("ZRANGEBYSCORE", escalations, "-inf", number(now() - stale), "LIMIT", 0, most)) do
  local task, line = record(name)
  if task and task[STATE] == "escalated" then find("stale", name, line) else call("ZREM", escalations, name) end
end

-- The task whose work an inbox entry is, as long as that is still to be done.
local function work_of(agent, priority, entry)
  if entry[2][1] ~= "at" or not match(entry[2][2], "^%d+%-%d+$") then return nil end
  local found = call("XRANGE", log, entry[2][2], entry[2][2])[1]
  local name = found and found[2][1] == "head" and match(found[2][2], "^%S+")
  if not name then return nil end
  local task, line = record(name)
  if task and task[DELIVERY] == priority .. "/" .. entry[1] and task[ASSIGNEE] == agent
    and is_one_of(task[STATE], "|submitted|working|") then
    return task, line
  end
end

-- The same for everybody who finds the same silence, so that one of them tells of it, and all know whether one has.
local function id_of(since, line)
  local time, hash, check = string.format("%012x", since), 0, 0
  for i = 1, #line do
    hash = (hash * 31 + string.byte(line, i)) % 2 ^ 48
    check = (check * 37 + string.byte(line, i)) % 2 ^ 24
  end
  local more = string.format("%06x", check)
  return string.sub(time, 1, 8) .. "-" .. string.sub(time, 9) .. "-7" .. string.sub(more, 1, 3) .. "-a"
    .. string.sub(more, 4) .. "-" .. string.format("%012x", hash)
end

-- Open work that waits behind something parked stands in no inbox: nobody is going to take it by itself.
local function look_behind(agent)
  local parked, cursor = prefix .. "parked:" .. agent, "looked:" .. agent .. ":parked"
  local page = call("HSCAN", parked, call("HGET", meta, cursor) or "0", "COUNT", PAGE)
  if page[1] == "0" then call("HDEL", meta, cursor) else call("HSET", meta, cursor, page[1]) end
  for i = 1, #page[2], 2 do
    local task, line = record(page[2][i])
    if task and task[ASSIGNEE] == agent and is_one_of(task[STATE], "|submitted|working|") then
      for each in string.gmatch(page[2][i + 1], "[^\n]+") do
        local since, delivery = match(each, "^%S+ %S+ %S+ %S+ (%S+) %S+ (%S+)$")
        if delivery == task[DELIVERY] and tonumber(since) <= now() - acknowledge and #findings < most * 4 then
          find("behind", task[KEY], line, agent, since)
        end
      end
    end
  end
end

-- Money that is reserved for a run that is over, and no envelope has ended it: its worker was lost, or gave the work
-- back and did not tell. What was reserved by hand, under no token, stays until somebody tells.
local function look_at_holds()
  local cursor = "looked:holds"
  pages = math.max(pages, math.ceil(call("HLEN", holds) / PAGE))
  local page = call("HSCAN", holds, call("HGET", meta, cursor) or "0", "COUNT", PAGE)
  if page[1] == "0" then call("HDEL", meta, cursor) else call("HSET", meta, cursor, page[1]) end
  for i = 1, #page[2], 2 do
    local agent, since, token = match(page[2][i + 1], "^%S+ %S+ %S+ (%S+) %S+ (%d+)%S* (%S+)")
    local task, line = record(page[2][i])
    -- Whoever decides on an escalation holds no token; its hold ends with what it decides, or with who is asked next.
    local decides = task and task[STATE] == "escalated" and match(task[PEOPLE], "^%S+ (%S+)") == agent
    if task and not decides and (task[STATE] ~= "working" or (token ~= "-" and (task[TOKEN] ~= token
      or task[LEASE] == "0" or tonumber(task[LEASE]) <= now() - lost))) then
      findings[#findings + 1] = { "hold", page[2][i], line, agent, since, page[2][i + 1] }
    end
  end
end

local function look_through(agent, seen)
  local leases, held = prefix .. "leases:" .. agent, prefix .. "held:" .. agent
  for _, delivery in ipairs(call("ZRANGEBYSCORE", leases, "-inf", number(now() - lost), "LIMIT", 0, most)) do
    local priority, id = match(delivery, "^(%a+)/(.+)$")
    local entry = call("XRANGE", prefix .. "inbox:" .. agent .. ":" .. priority, id, id)[1]
    local consumer = match(call("HGET", held, delivery) or "", "^%d+ (%S+)")
    local task, line = nil, nil
    if entry then task, line = work_of(agent, priority, entry) end
    if task and consumer and consumer ~= "-" then
      find("lost", task[KEY], line, agent, call("ZSCORE", leases, delivery), consumer)
    end
  end

  look_behind(agent)

  local mark = "silent:" .. agent
  local told = call("HGET", meta, mark)
  if told and (seen or (told ~= "told" and call("HEXISTS", index, told) == 0)) then
    -- Its outage is over; or whoever found it never told, and it is found again.
    call("HDEL", meta, mark)
    told = nil
  end
  local waiting, oldest = 0, nil
  for _, priority in ipairs({ "critical", "high", "normal", "low" }) do
    local inbox, cursor = prefix .. "inbox:" .. agent .. ":" .. priority, "looked:" .. agent .. ":" .. priority
    local length = call("XLEN", inbox)
    waiting = waiting + length
    pages = math.max(pages, math.ceil(length / PAGE))
    local from = call("HGET", meta, cursor)
    local till = number(now() - math.min(acknowledge, silent))
    local page = call("XRANGE", inbox, from and "(" .. from or "-", till, "COUNT", PAGE)
    if #page == PAGE then
      call("HSET", meta, cursor, page[#page][1])
    elseif from then
      call("HDEL", meta, cursor)
    end
    for _, entry in ipairs(page) do
      local task, line = work_of(agent, priority, entry)
      if task and not found[task[KEY]] and tonumber(task[LEASE]) <= now() and #findings < most * 4 then
        local since = tonumber(match(entry[1], "^%d+"))
        if task[STATE] == "submitted" and since <= now() - acknowledge then
          find("unacknowledged", task[KEY], line, agent, number(since))
        elseif since <= now() - silent and (not oldest or since < oldest[5]) then
          oldest = { "silent", task[KEY], line, agent, since }
        end
      end
    end
  end
  if oldest and not seen and not told then
    local id = id_of(oldest[5], oldest[3])
    call("HSET", meta, mark, id)
    find("silent", oldest[2], oldest[3], agent, number(oldest[5]), number(waiting), id)
  end
end

-- Workers that were not seen for long and hold nothing are forgotten, but for when their agent had one last.
local alive = {}
for i, member in ipairs(call("ZRANGE", workers, 0, -1, "WITHSCORES")) do
  if i % 2 == 1 then
    alive.member = member
  else
    local agent, consumer = match(alive.member, "^(%S+) (%S+)$")
    local last = tonumber(member)
    alive[agent] = math.max(alive[agent] or 0, last)
    if last < now() - GONE then
      local holds = false
      for _, holder in ipairs(call("HVALS", prefix .. "held:" .. agent)) do
        holds = holds or match(holder, "^%d+ (%S+)") == consumer
      end
      if not holds then
        call("ZREM", workers, alive.member)
        call("HDEL", meta, "took:" .. consumer)
        call("HSET", meta, "seen:" .. agent, number(alive[agent]))
      end
    end
  end
end
for _, agent in ipairs(call("SMEMBERS", agents)) do
  if not is_one_of(agent, ARGV[8]) then
    local last = math.max(alive[agent] or 0, tonumber(call("HGET", meta, "seen:" .. agent) or 0))
    look_through(agent, last > now() - silent)
  end
end
look_at_holds()
return { findings, pages }
