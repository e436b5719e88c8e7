-- Trims the log's oldest envelopes, after the archive has sealed them; one step is one page of them. Whoever asks knows
-- the link of the chain at its end, and up to where the log was trimmed: where that is otherwise, nothing is done.
--
-- KEYS  1 log   2 index   3 meta   4 agents   5 archive   6 projections   7 again
-- ARGV  1 prefix   2 trim|look   3 number and 4 position up to which the log is trimmed (look: was looked at)
--       5 number and 6 position up to which it is to be; for a look the last ones that matter, "+" for any position
--       7 position up to which holders are told of, "+" for any
--       8 link of the chain there   9 store   10 segment: where what goes can be read
-- Reply {"trimmed"}   {"again"}: not yet, ask for the same once more   {"moved"}: the log was trimmed otherwise
--       {"other", how many envelopes}: it does not hold so many up to that position: it is not what was sealed
--       {"held", first position that is needed, holders}: up to there, and no further
--       {"looked", number and position up to which it can be trimmed, holders}
--       holders: {kind, name, position, task, state} of what needs something that was to go, the oldest first
--
-- Why nothing goes that is still needed: all on the server that points at the log is looked at here, in the same step.
-- What comes to point at it later is a new envelope, or was moved by an append or a take, which are steps of their own,
-- from one of these places to another; and mending puts back only what is work on an open task. Such a task keeps all of
-- its envelopes: its agent reads the talk, supervision the escalation, and mending finds the work.

--[[TASK]]
local call, match = redis.call, string.match
local log, index, meta, agents, archive, projections, again = unpack(KEYS, 1, 7)
local prefix, looks, from, wanted, till = ARGV[1], ARGV[2] == "look", tonumber(ARGV[3]), tonumber(ARGV[5]), ARGV[6]
local NAMED, MOST, FEW, BYTES = 20, 5000, 20, 4194304
local start, trimmed = ARGV[4], call("HGET", archive, "count")
if not looks and tonumber(trimmed or 0) ~= from then return { "moved" } end

local function order(position)
  local ms, sequence = match(position, "^(%d+)%-(%d+)$")
  return tonumber(ms), tonumber(sequence)
end

local function is_before(ams, asequence, bms, bsequence)
  return ams < bms or (ams == bms and asequence < bsequence)
end

-- A page of what is sealed has a megabyte. How large another one is, nobody knows: it is read until it has some.
local entries = looks and {} or call("XRANGE", log, "-", "+", "COUNT", wanted - from)
if looks then
  local at, size = start, 0
  repeat
    local few = math.min(FEW, wanted - from - #entries)
    local found = call("XRANGE", log, "(" .. at, till, "COUNT", few)
    for _, entry in ipairs(found) do
      entries[#entries + 1], at = entry, entry[1]
      for _, value in ipairs(entry[2]) do size = size + #value end
    end
  until #found < few or #entries == wanted - from or size >= BYTES
end
if not looks and (#entries ~= wanted - from or entries[#entries][1] ~= till) then return { "other", #entries } end
if #entries == 0 then return { "looked", number(from), start, {} } end
local first_ms, first_sequence = order(entries[1][1])
local last_ms, last_sequence = order(entries[#entries][1])
local told_ms, told_sequence = math.huge, 0
if ARGV[7] ~= "+" then told_ms, told_sequence = order(ARGV[7]) end

-- The newest envelope stays in any case: it shows that the log is the one that it was.
local newest_ms, newest_sequence = order(call("XREVRANGE", log, "+", "-", "COUNT", 1)[1][1])
local needed_ms, needed_sequence = newest_ms, newest_sequence
local holders, held_by = {}, {}
local function hold(ms, sequence, kind, name, task, state)
  if is_before(told_ms, told_sequence, ms, sequence) or not is_before(ms, sequence, newest_ms, newest_sequence) then
    return
  end
  if is_before(ms, sequence, needed_ms, needed_sequence) then needed_ms, needed_sequence = ms, sequence end
  local holder = held_by[kind .. name]
  if not holder then
    holder = { ms = ms, sequence = sequence, told = { kind, name, "", task or "", state or "" } }
    held_by[kind .. name], holders[#holders + 1] = holder, holder
  elseif is_before(ms, sequence, holder.ms, holder.sequence) then
    holder.ms, holder.sequence = ms, sequence
  end
end

-- What points before the log's first envelope points at nothing: a take takes it out, with an incident.
local function hold_pointer(position, ...)
  local ms, sequence = order(position)
  if not ms or is_before(ms, sequence, first_ms, first_sequence) then return false end
  hold(ms, sequence, ...)
  return true
end

-- In a stream of an inbox the oldest stands first, but for what was put back: those are listed in `again`. Many streams
-- are asked at once, since most of them have nothing, and each command costs as much as to read an entry.
local members = call("SMEMBERS", agents)
local streams, whose = {}, {}
for _, agent in ipairs(members) do
  for _, priority in ipairs({ "critical", "high", "normal", "low" }) do
    streams[#streams + 1] = prefix .. "inbox:" .. agent .. ":" .. priority
    whose[streams[#streams]] = agent
  end
  for _, lines in ipairs(call("HVALS", prefix .. "parked:" .. agent)) do
    -- The lines of a task stand in the order of the log.
    for line in string.gmatch(lines, "[^\n]+") do
      if hold_pointer(match(line, "^%S+"), "parked", agent) then break end
    end
  end
end
for first = 1, #streams, 1000 do
  local asked, count = {}, math.min(1000, #streams - first + 1)
  for i = 1, count do asked[i], asked[count + i] = streams[first + i - 1], "0" end
  for _, stream in ipairs(call("XREAD", "COUNT", 1, "STREAMS", unpack(asked)) or {}) do
    local entry, agent = stream[2][1], whose[stream[1]]
    if not (entry[2][1] == "at" and hold_pointer(entry[2][2], "inbox", agent)) then
      local found, page = false, call("XRANGE", stream[1], "-", "+", "COUNT", 100)
      for _, each in ipairs(page) do
        found = found or (each[2][1] == "at" and hold_pointer(each[2][2], "inbox", agent))
      end
      if not found and #page == 100 then hold(first_ms, first_sequence, "inbox", agent) end
    end
  end
end

-- A delivery that was put back, `agent delivery position`, until it is settled; the oldest position first.
local settled, oldest, unsure = {}, nil, false
local listed = call("ZRANGE", again, 0, 999, "WITHSCORES")
for i = 1, #listed, 2 do
  local agent, priority, entry, position = match(listed[i], "^(%S+) (%a+)/(%S+) (%S+)$")
  local ms = tonumber(listed[i + 1])
  if oldest and ms > oldest then break end
  local stands = agent and #call("XRANGE", prefix .. "inbox:" .. agent .. ":" .. priority, entry, entry) > 0
  if stands and hold_pointer(position, "inbox", agent) then oldest = ms else settled[#settled + 1] = listed[i] end
end
unsure = not oldest and #listed == 2000

local folded = call("HGETALL", projections)
for i = 1, #folded, 2 do
  local ms, sequence = order(match(folded[i + 1], "^%S+") or "")
  -- What it has folded it needs no more.
  hold(ms or 0, ms and sequence + 1 or 0, "projection", folded[i])
end

local names, ids, tasks, lines, money = {}, {}, {}, {}, {}
for i, entry in ipairs(entries) do
  local fields = entry[2]
  local name, id, kind = match(fields[1] == "head" and fields[2] or "", "^(%S+) (%S+) (%S+)")
  if not name then return { "other", i - 1 } end
  names[i], ids[i], money[i] = name, id, kind == "budget"
  if not tasks[names[i]] then
    tasks[names[i]] = true
    lines[#lines + 1] = "task:" .. names[i]
  end
end
for i, record in ipairs(call("HMGET", index, unpack(lines))) do
  tasks[string.sub(lines[i], 6)] = { state = record and match(record, "^%S+") or "", record = record }
end
local TURN = { submitted = "assignee", working = "assignee", escalated = "coordinator", ["input-required"] = "delegator" }
for i, entry in ipairs(entries) do
  local state = tasks[names[i]].state
  if TURN[state] then
    local task, ms, sequence = read_task(names[i], tasks[names[i]].record), order(entry[1])
    local delegator, coordinator = match(task[PEOPLE], "^(%S+) (%S+)")
    local whose = { assignee = task[ASSIGNEE], coordinator = coordinator, delegator = delegator }
    hold(ms, sequence, "task", whose[TURN[state]], names[i], state)
    break
  end
end

table.sort(holders, function(a, b)
  if a.ms ~= b.ms or a.sequence ~= b.sequence then return is_before(a.ms, a.sequence, b.ms, b.sequence) end
  if a.told[1] ~= b.told[1] then return a.told[1] > b.told[1] end
  return a.told[2] < b.told[2]
end)
local told = {}
for i = 1, math.min(#holders, NAMED) do
  told[i] = holders[i].told
  told[i][3] = number(holders[i].ms) .. "-" .. number(holders[i].sequence)
end
if looks then
  local count = 0
  while count < #entries do
    local ms, sequence = order(entries[count + 1][1])
    if not is_before(ms, sequence, needed_ms, needed_sequence) then break end
    count = count + 1
  end
  return { "looked", number(from + count), count > 0 and entries[count][1] or start, told }
end
if #settled > 0 then call("ZREM", again, unpack(settled)) end
if unsure then return { "again" } end
if not is_before(last_ms, last_sequence, needed_ms, needed_sequence) then
  return { "held", number(needed_ms) .. "-" .. number(needed_sequence), told }
end

-- The record of a task that has ended refuses all that is sent of it again, so that the IDs of its envelopes may go.
-- While it has not, they stay, noted as `old:<task>`, and go when it has. Those of budget records stay for good: what was
-- used is recorded in any state, and must not be counted twice.
local ended, open, gone, kept = {}, {}, {}, {}
for i, id in ipairs(ids) do
  local name, task = names[i], tasks[names[i]]
  if not money[i] then
    if task.is_over == nil then
      task.is_over = string.find("--[[ENDED]]", "|" .. task.state .. "|", 1, true) ~= nil
      local list = task.is_over and ended or open
      list[#list + 1] = "old:" .. name
    end
    if task.is_over then
      gone[#gone + 1], gone[id] = id, true
    else
      kept[name] = (kept[name] and kept[name] .. " " or "") .. id
    end
  end
end

local function for_each_thousand(list, run)
  for first = 1, #list, 1000 do run(unpack(list, first, math.min(first + 999, #list))) end
end

if #ended > 0 then
  local spent, too_many = 0, {}
  for i, old in ipairs(call("HMGET", index, unpack(ended))) do
    local left = {}
    for id in string.gmatch(old or "", "%S+") do
      spent = spent + 1
      if spent <= MOST then gone[#gone + 1], gone[id] = id, true else left[#left + 1] = id end
    end
    if #left > 0 then
      too_many[#too_many + 1] = ended[i]
      too_many[#too_many + 1] = table.concat(left, " ")
    end
  end
  if #too_many > 0 then
    -- More than one step takes: those first, and the envelopes with a later one.
    for_each_thousand(gone, function(...) call("HDEL", index, ...) end)
    for_each_thousand(too_many, function(...) call("HSET", index, ...) end)
    return { "again" }
  end
end

local noted = {}
if #open > 0 then
  for i, old in ipairs(call("HMGET", index, unpack(open))) do
    noted[2 * i - 1], noted[2 * i] = open[i], (old and old .. " " or "") .. kept[string.sub(open[i], 5)]
  end
end
local told_of = {}
if #gone > 0 then
  -- Supervision looks whether the escalation that tells of a silent agent is known: it was, and that stays so.
  local marks = {}
  for i, agent in ipairs(members) do marks[i] = "silent:" .. agent end
  for first = 1, #marks, 1000 do
    for i, id in ipairs(call("HMGET", meta, unpack(marks, first, math.min(first + 999, #marks)))) do
      if id and gone[id] then
        told_of[#told_of + 1] = marks[first + i - 1]
        told_of[#told_of + 1] = "told"
      end
    end
  end
end

-- First what frees memory: what comes after that is then also done on a server that has none left.
call("XTRIM", log, "MINID", "=", number(last_ms) .. "-" .. number(last_sequence + 1))
for_each_thousand(gone, function(...) call("HDEL", index, ...) end)
for_each_thousand(ended, function(...) call("HDEL", index, ...) end)
for_each_thousand(noted, function(...) call("HSET", index, ...) end)
for_each_thousand(told_of, function(...) call("HSET", meta, ...) end)
call("HSET", archive, "count", ARGV[5], "position", till, "head", ARGV[8], "store", ARGV[9], "segment",
  ARGV[10])
return { "trimmed" }
