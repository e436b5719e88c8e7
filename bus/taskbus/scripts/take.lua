-- Takes deliveries from an agent's inbox and leases them, in one atomic step. A call that is repeated, since its reply
-- was lost, gives what it gave; of a worker that died the lease runs out. The most urgent first, and within a priority
-- those that come again; after eight more urgent ones in a row comes a less urgent one, if any waits: none starves.
--
-- KEYS  1 log   2 index   3 meta   4 held   5 leases   6 parked   7 workers   8 bell
--       9... the inbox, one stream for each priority, the most urgent first
-- ARGV  1 prefix   2 agent (and group)   3 consumer   4 at most so many   5 lease in milliseconds   6 name of this call
--       7 tokens of what this consumer has in hand: left to it even where a lease has lapsed   8... priorities
-- Reply 1 last IDs of the bell and of each stream of the inbox: where to wait for more; empty where there may be more
--       2 milliseconds until the next lease lapses or the next wait is over, -1 without any
--       3 for each delivery three: what it is, the record of its task or "", and the body of its envelope. What it is
--         are words: "delivery token tries position task id type sender recipient". Where the log entry has other
--         fields, the last is the entry in full, and the first only "delivery token tries position"
--       4 what stood in the inbox and points at nothing that taskbus wrote: it was taken out
--       5 the newest fencing token there ever was; it never falls, unless the server lost what it knew
--       6 the same before this take
--       7 when this bus was read first, in milliseconds since the epoch: another time, another bus
--       8 priorities whose stream, or its group, is not the one that was read before: somebody deleted it
--
-- Who holds a delivery stands in `held`, and until when in `leases`, so the group needs one consumer only, none is left
-- behind, and it only has to know how far it has read: entries up to there are in hand, or wait for their time. A list
-- of its own of what is pending (a read without NOACK) would cost twice as much as all else of the read.

--[[TASK]]
--[[INBOX]]
--[[GROUP]]
local call, match = redis.call, string.match
local prefix, agent, consumer, limit, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local log, index, meta, held, leases, parked, workers, bell = unpack(KEYS, 1, 8)
local LESS_URGENT_AFTER, MANY = 8, 16
local deliveries, missing, streams, remade, tasks = {}, {}, {}, {}, {}
local has_parked = call("EXISTS", parked) == 1
local till = number(now() + lease)
local took, name_of_call, turn = "took:" .. consumer, ARGV[6], "turn:" .. agent

local fields = { "token", took, turn, "born" }
for i = 9, #KEYS do fields[i - 4] = "read:" .. agent .. ":" .. ARGV[i - 1] end
local known = call("HMGET", meta, unpack(fields))
local before, last_take, urgent, born = known[1] or "0", known[2], tonumber(known[3] or 0), known[4]
if not born then
  born = number(now())
  call("HSET", meta, "born", born)
end
for i = 9, #KEYS do
  local stream = { key = KEYS[i], priority = ARGV[i - 1], due = {}, mark = fields[i - 4], was_read = known[i - 4] }
  local exists = call("EXISTS", stream.key) == 1
  if exists then streams[#streams + 1] = stream end
  if stream.was_read == "mend" or (stream.was_read and not exists) then remade[#remade + 1] = stream.priority end
end

-- The log entries that inbox entries point at, by their places; nil where there is none. What was appended in one step
-- stands in a row, as its IDs show, and is read in one command.
local function pointed_at(entries)
  local found, first, ids, ms, sequence = {}, nil, {}, nil, nil
  local function look(last)
    local row, k = call("XRANGE", log, ids[first], ids[last]), 1
    for i = first, last do
      local entry = row[k]
      if entry and (first == last or entry[1] == ids[i]) then found[i], k = entry, k + 1 end
    end
  end
  for i = 1, #entries do
    local fields = entries[i][2]
    local a, b = match(fields[1] == "at" and fields[2] or "", "^(%d+)%-(%d+)$")
    if first and (a ~= ms or tonumber(b) ~= sequence + 1) then
      look(i - 1)
      first = nil
    end
    if a then
      first, ids[i], ms, sequence = first or i, fields[2], a, tonumber(b)
    end
  end
  if first then look(#entries) end
  return found
end

-- The task of a log entry, and whether it has the fields that most have; nil for what taskbus did not write.
local function read_entry(fields)
  if #fields == 4 and fields[1] == "head" and fields[3] == "body" then return match(fields[2], "^%S+"), true end
  local value = {}
  for i = 1, #fields, 2 do value[fields[i]] = fields[i + 1] end
  if value.head and value.body and (value.form or "xml") == "xml" then return match(value.head, "^%S+") end
end

-- Notes what is given: delivery, token, tries, log entry, task, and whether it has the usual fields.
local function give(delivery, token, tries, entry, name, usual)
  deliveries[#deliveries + 1] = { delivery, token, tries, entry, name, usual }
end

local function take_out(stream, id, delivery)
  call("XDEL", stream.key, id)
  call("ZREM", leases, delivery)
  call("HDEL", held, delivery)
end

local function hold(stream, entry, tries, logged)
  local delivery, name, usual = stream.priority .. "/" .. entry[1], nil, nil
  if logged then name, usual = read_entry(logged[2]) end
  if not name then
    missing[#missing + 1] = entry[2][2] or entry[1]
    return take_out(stream, entry[1], delivery)
  end
  -- What belongs to a parked task waits behind it, unless it was put back from there.
  if has_parked and entry[2][3] ~= "again" and call("HEXISTS", parked, name) == 1 then
    local task = read_task(name, call("HGET", index, "task:" .. name))
    local work = task[DELIVERY] == delivery and task[ASSIGNEE] == agent
    local words = { entry[2][2], stream.priority, tries - 1, "behind", number(now()), work and 1 or 0, delivery }
    set_aside(parked, name, table.concat(words, " "))
    return take_out(stream, entry[1], delivery)
  end
  give(delivery, mint(meta, limit), tries, logged, name, usual)
end

local function make_group(stream)
  create_group(stream.key, agent, stream.priority, leases)
  call("HSET", meta, stream.mark, stream.was_read and "mend" or "read")
  if stream.was_read == "read" then remade[#remade + 1] = stream.priority end
end

-- Takes one that was taken before: its lease has lapsed, or its wait is over.
local function claim(stream, id)
  local delivery = stream.priority .. "/" .. id
  local token, tries = match(call("HGET", held, delivery) or "", "^(%d+) %S+ (%d+)")
  if token and string.find(ARGV[7], token, 1, true) then return end
  local entry = call("XRANGE", stream.key, id, id)[1]
  if not entry then
    -- Somebody deleted it, or the stream.
    call("HSET", meta, stream.mark, "mend")
    call("ZREM", leases, delivery)
    call("HDEL", held, delivery)
    return
  end
  hold(stream, entry, number((tries or 1) + 1), pointed_at({ entry })[1])
end

-- What this very call took before its reply was lost, as far as it is still held.
local function repeated(taken)
  for delivery in string.gmatch(taken, "%S+/%S+") do
    local priority, id = match(delivery, "^(%a+)/(.+)$")
    local token, by, tries = match(call("HGET", held, delivery) or "", "^(%d+) (%S+) (%d+)")
    local entry = by == consumer and call("XRANGE", prefix .. "inbox:" .. agent .. ":" .. priority, id, id)[1]
    local logged = entry and pointed_at({ entry })[1]
    local name, usual = nil, nil
    if logged then name, usual = read_entry(logged[2]) end
    if name then give(delivery, token, tries, logged, name, usual) end
  end
end

local function read(stream, count)
  local found = redis.pcall("XREADGROUP", "GROUP", agent, "bus", "COUNT", count, "NOACK", "STREAMS", stream.key, ">")
  if found and found.err then
    make_group(stream)
    found = call("XREADGROUP", "GROUP", agent, "bus", "COUNT", count, "NOACK", "STREAMS", stream.key, ">")
  end
  -- The servers answer {{stream, entries}}, or nothing; fakeredis 2.40 {stream, entries}, or an empty array.
  if not found or not found[1] then return {} end
  return type(found[1]) == "table" and found[1][2] or found[2]
end

-- Takes at most so many from one stream; how many it took.
local function draw(stream, most)
  local before = #deliveries
  while stream.due[1] and #deliveries - before < most do claim(stream, table.remove(stream.due, 1)) end
  while not stream.empty and #deliveries - before < most do
    local entries = read(stream, most - (#deliveries - before))
    stream.empty = #entries == 0
    local logged = pointed_at(entries)
    for i = 1, #entries do hold(stream, entries[i], "1", logged[i]) end
  end
  return #deliveries - before
end

if last_take and match(last_take, "^%S+") == name_of_call then
  repeated(last_take)
  limit = #deliveries
end

for _, delivery in ipairs(limit == 0 and {} or call("ZRANGEBYSCORE", leases, "-inf", now(), "LIMIT", 0, 1000)) do
  local priority, id = match(delivery, "^(%a+)/(.+)$")
  local stands
  for _, stream in ipairs(streams) do
    if stream.priority == priority then
      stream.due[#stream.due + 1] = id
      stands = true
    end
  end
  if not stands then
    call("HSET", meta, "read:" .. agent .. ":" .. priority, "mend")
    call("ZREM", leases, delivery)
    call("HDEL", held, delivery)
  end
end

if #deliveries == limit then
  streams = {}
elseif #streams == 1 then
  draw(streams[1], limit)
elseif #streams > 1 then
  local counted, i = urgent, 1
  while #deliveries < limit and i <= #streams do
    local room, in_a_row = limit - #deliveries, urgent % (LESS_URGENT_AFTER + 1)
    if i == #streams then
      draw(streams[i], room)
      break
    elseif in_a_row == LESS_URGENT_AFTER then
      -- By turns, so that the least urgent has its share also where two others never end.
      local lower = #streams - i
      local first = math.floor(urgent / (LESS_URGENT_AFTER + 1)) % lower
      for j = 0, lower - 1 do
        if draw(streams[i + 1 + (first + j) % lower], 1) > 0 then break end
      end
      urgent = urgent + 1
    else
      local drawn = draw(streams[i], math.min(room, LESS_URGENT_AFTER - in_a_row))
      urgent = urgent + drawn
      if drawn == 0 then i = i + 1 end
    end
  end
  if urgent ~= counted then call("HSET", meta, turn, number(urgent)) end
end

-- With nothing left to read, all that stands in the inbox has a lease. What has none was read by a take that the server
-- refused halfway, or somebody removed its lease.
if #deliveries == 0 and limit > 0 then
  local standing = 0
  for _, stream in ipairs(streams) do standing = standing + call("XLEN", stream.key) end
  if standing > call("ZCARD", leases) then
    for _, stream in ipairs(streams) do
      for _, entry in ipairs(call("XRANGE", stream.key, "-", "+")) do
        if #deliveries == limit then break end
        if not call("ZSCORE", leases, stream.priority .. "/" .. entry[1]) then claim(stream, entry[1]) end
      end
    end
  end
end

-- Leases, holders and records of all that was taken, in one command each.
local given = {}
if #deliveries > 0 then
  local ends, holders, names, taken = {}, {}, {}, { name_of_call }
  for i = 1, #deliveries do
    local each = deliveries[i]
    local delivery = each[1]
    ends[2 * i - 1], ends[2 * i] = till, delivery
    holders[2 * i - 1], holders[2 * i] = delivery, each[2] .. " " .. consumer .. " " .. each[3]
    names[i], taken[i + 1] = "task:" .. each[5], delivery
  end
  -- A hash with small values alone is a list, searched from its begin, which is slow with hundreds; so one is longer.
  if #deliveries > MANY then holders[2] = string.format("%-65s", holders[2]) end
  call("HSET", meta, took, table.concat(taken, " "))
  call("ZADD", leases, unpack(ends))
  call("HSET", held, unpack(holders))
  local records, written = call("HMGET", index, unpack(names)), {}
  for i = 1, #deliveries do
    local each = deliveries[i]
    local line, token = tasks[each[5]] or records[i], each[2]
    -- Only token, lease and consumer change: state, assignee, token, delivery, review, lease, consumer, and the rest.
    -- Another agent's inbox may have an entry of the same name: what was appended in one millisecond has one ID.
    local state, assignee, delivery, review, rest = match(line or "", "^(%S+) (%S+) %S+ (%S+) (%S+) %S+ %S+ (.+)$")
    if delivery == each[1] and assignee == agent then
      line = state .. " " .. agent .. " " .. token .. " " .. delivery .. " " .. review .. " " .. till .. " " .. consumer
        .. " " .. rest
      written[#written + 1], written[#written + 2] = names[i], line
    end
    tasks[each[5]] = line
  end
  if #written > 0 then call("HSET", index, unpack(written)) end
  for i = 1, #deliveries do
    local each = deliveries[i]
    local entry, usual = each[4], each[6]
    local f, what = entry[2], each[1] .. " " .. each[2] .. " " .. each[3] .. " " .. entry[1]
    if usual then what = what .. " " .. f[2] end
    given[3 * i - 2], given[3 * i - 1], given[3 * i] = what, tasks[each[5]] or "", usual and f[4] or f
  end
end
call("ZADD", workers, now(), agent .. " " .. consumer)

local last = {}
if #deliveries < limit then
  for i = 8, #KEYS do last[#last + 1] = ending(KEYS[i]) end
end
local lapse = call("ZRANGE", leases, 0, 0, "WITHSCORES")[2]
return { last, lapse and math.max(0, math.ceil(tonumber(lapse) - now())) or -1, given, missing,
         newest and number(newest) or before, before, born, remade }
