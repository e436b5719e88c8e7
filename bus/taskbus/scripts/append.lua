-- Appends envelopes and settles deliveries in one atomic step: the only write path to log, inboxes and tasks.
--
-- KEYS  1 log   2 index (envelope ID -> position, "task:<id>" -> record)   3 meta
-- ARGV  1 prefix of all other keys; they share the hash slot of KEYS
--       2 "1": all or nothing, "0": each envelope for itself
--       3 number of settlements, 5 arguments each: agent, delivery, token, consumer, task
--       then for each envelope 9 arguments: 0 id, 1 event, 2 sender, 3 recipient, 4 task, 5 token or "", 6 what is
--       seldom other than usual, 7 body, 8 source or "". The seldom ones are one line of words, "-" for what is
--       empty: parent, root, priority, deadline, review, form, origin
-- Reply one array for a settlement that is refused, else one for each envelope:
--       {"appended", position}   {"repeated", position}   {"other", position}   {"skipped"}
--       {"fenced"|"lifecycle"|"held"|"recipient"|"unknown"|"open",
--        state, delegator, assignee, coordinator, token, lease, consumer}
--
-- Two passes: the first decides and writes nothing, so that a refusal changes nothing; the second writes, and takes
-- back what it added when the server refuses a command halfway.

local ARGV, call, find, match = ARGV, redis.call, string.find, string.match
local prefix, atomic, settlements = ARGV[1], ARGV[2] == "1", tonumber(ARGV[3])
local log, index, meta = KEYS[1], KEYS[2], KEYS[3]
-- Three lists that are generated from the lifecycle module, searched as text because a table would be built anew in
-- each call: "|state event>to unreviewed attempt roles|…", "|event|…", "|event|…".
local RULES, WORK, TO_ASSIGNEE = "--[[RULES]]", "--[[WORK]]", "--[[TO_ASSIGNEE]]"

--[[TASK]]
-- The tasks of this call, and the position of an envelope that the log holds already.
local tasks = {}
local function look_up(name, id)
  local task = tasks[name]
  if task then return task, id and call("HGET", index, id) end
  local found = call("HMGET", index, "task:" .. name, id or "")
  task = read_task(name, found[1])
  tasks[name] = task
  return task, found[2]
end

local function refused(kind, task)
  return { kind, task.state, task.delegator, task.assignee, task.coordinator, task.token, task.lease, task.consumer }
end

-- Takes a delivery out of its agent's inbox.
local function remove(agent, delivery)
  if type(delivery) == "table" then delivery = delivery.delivery end
  if delivery == "-" then return end
  local priority, entry = match(delivery, "^(%a+)/(.+)$")
  local inbox = prefix .. "inbox:" .. agent .. ":" .. priority
  call("XACK", inbox, agent, entry)
  call("XDEL", inbox, entry)
  if call("HDEL", prefix .. "held:" .. agent, delivery) == 1 then
    call("ZREM", prefix .. "leases:" .. agent, delivery)
  end
end

local function permitted(roles, task, sender)
  return (sender == task.assignee and find(roles, "assignee", 1, true))
    or (sender == task.delegator and find(roles, "delegator", 1, true))
    or (sender == task.coordinator and find(roles, "coordinator", 1, true))
    or (sender == "@human" and find(roles, "human", 1, true))
    or (sender == "@bus" and find(roles, "bus", 1, true))
    or find(roles, "anyone", 1, true)
end

-- Whether the log holds the same document at a position; what was trimmed cannot be compared.
local function same(position, body)
  local entry = call("XRANGE", log, position, position)[1]
  if not entry then return true end
  for i = 1, #entry[2], 2 do
    if entry[2][i] == "body" then return entry[2][i + 1] == body end
  end
end

-- Settlements: the token must be that of the newest delivery. A delivery that is gone was settled before: by this very
-- call, whose outcomes are then in the log, or by somebody else.
local at, gone = 4, nil
for _ = 1, settlements do
  local held = call("HGET", prefix .. "held:" .. ARGV[at], ARGV[at + 1])
  if held then
    local token, consumer = match(held, "^(%d+) (.*)$")
    if token ~= ARGV[at + 2] or consumer ~= ARGV[at + 3] then
      return { { "fenced", "", "", ARGV[at], "", token, "0", consumer } }
    end
  else
    gone = ARGV[at]
  end
  at = at + 5
end

-- What is seldom other than usual.
local function unfold(seldom)
  if seldom == "- - normal - 1 json -" then return "-", "-", "normal", "-", "1", "json", "-" end
  return match(seldom, "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$")
end

-- First pass: decide. A plan is both the note of what to write and the answer to fill in.
local replies, plans, seen, whole = {}, {}, {}, true
local function decide(base)
  local id, event, sender, recipient, name, token, seldom, body = unpack(ARGV, base, base + 7)
  local parent, root, priority, deadline, review = unfold(seldom)
  local first = seen[id]
  if first then return { ARGV[first.base + 7] == body and "repeated" or "other", first } end
  local task, position = look_up(name, id)
  if position then return { same(position, body) and "repeated" or "other", position } end
  local new, works = task.state == "", sender ~= "@bus" and find(WORK, "|" .. event .. "|", 1, true)
  if new and event ~= "delegation" then return refused("unknown", task) end
  if works and token ~= "" and (token ~= task.token or token == "0") then return refused("fenced", task) end
  local _, before = find(RULES, "|" .. task.state .. " " .. event .. ">", 1, true)
  if not before then return refused("lifecycle", task) end
  local to, unreviewed, attempt, roles = match(RULES, "^(%S+) (%S+) (%d) ([^|]*)", before + 1)
  if not permitted(roles, task, sender) then return refused("lifecycle", task) end
  if (recipient ~= task.assignee and find(TO_ASSIGNEE, "|" .. event .. "|", 1, true))
    or (event == "question" and recipient ~= task.delegator and recipient ~= "@human")
    or (event == "delegation" and recipient == "@bus") then
    return refused("recipient", task)
  end
  local by_hand = works and token == ""
  if by_hand and task.lease ~= "0" and tonumber(task.lease) > now() then return refused("held", task) end

  if unreviewed ~= "-" and task.review == "0" then to = unreviewed end
  local stays = to == "submitted" or to == "working"
  local delivers = stays and not works
  -- The delivery before ends when the work ends, is handed out anew, or is taken up by hand; its token ends with it.
  local removes = not new and (task.delivery ~= "-" or task.lease ~= "0")
    and ((by_hand and event ~= "status") or delivers or not stays)
  local plan = {
    base = base, task = task, agent = task.assignee, priority = priority, delivers = delivers, delivery = "-",
    old = removes and task.delivery, fences = not new and (delivers or (by_hand and removes)), position = false,
  }
  if new then
    task.delegator, task.coordinator, task.parent = sender, sender, parent
    -- The tree of a known parent is a fact; what the sender says of it is taken where the parent is not known.
    local known = parent ~= "-" and look_up(parent).root or ""
    task.root = known ~= "" and known or root ~= "-" and root or parent ~= "-" and parent or name
  end
  if event == "delegation" then
    task.assignee, task.deadline, task.review = recipient, deadline, review
  elseif event == "escalation" then
    task.coordinator = recipient
  end
  local changes = removes or delivers or to ~= task.state
  if removes then task.lease, task.consumer, task.delivery = "0", "-", "-" end
  if delivers then task.delivery = plan end
  if plan.fences then task.token = "-" end
  if changes then task.cause = id end
  if changes or task.last then task.last = plan end
  task.state = to
  if attempt == "1" then task.attempt = string.format("%d", task.attempt + 1) end
  seen[id] = plan
  plans[#plans + 1] = plan
  return plan
end

for base = at, #ARGV, 9 do
  local reply = decide(base)
  if reply[1] and reply[1] ~= "repeated" then whole = false end
  replies[#replies + 1] = reply
end
if gone and #plans > 0 then return { { "fenced", "", "", gone, "", "-", "0", "-" } } end
-- Work that is still open cannot be settled without its outcome: nobody would have it in hand any more.
for i = 0, settlements - 1 do
  local task = look_up(ARGV[8 + 5 * i])
  if task.delivery == ARGV[5 + 5 * i] and task.assignee == ARGV[4 + 5 * i] and (whole or not atomic) then
    return { refused("open", task) }
  end
end
if atomic and not whole then
  for i, reply in ipairs(replies) do
    if reply[1] == "other" and type(reply[2]) == "table" then
      reply[2] = ""
    elseif not reply[1] or type(reply[2]) == "table" then
      replies[i] = { "skipped" }
    end
  end
  return replies
end

-- Second pass: write. What can be taken back comes first, what cannot comes last.
local added = {}
local function add(stream, ...)
  local entry = call("XADD", stream, "*", ...)
  added[#added + 1] = { stream, entry }
  return entry
end

local function write(plan)
  local task, priority = plan.task, plan.priority
  local id, event, sender, recipient, name, _, seldom, body, source = unpack(ARGV, plan.base, plan.base + 8)
  local kind, position = match(event, "^%a+"), nil
  if task.root == name and seldom == "- - normal - 1 json -" then
    position = add(log, "id", id, "type", kind, "from", sender, "to", recipient, "task", name, "body", body)
  else
    local _, _, _, _, _, form, origin = unfold(seldom)
    local entry = { "id", id, "type", kind, "from", sender, "to", recipient, "task", name }
    local function put(field, value) entry[#entry + 1] = field entry[#entry + 1] = value end
    if task.root ~= name then put("root", task.root) end
    if priority ~= "normal" then put("priority", priority) end
    if form ~= "json" then put("form", form) end
    put("body", body)
    if source ~= "" then put("source", source) put("origin", origin) end
    position = add(log, unpack(entry))
  end
  plan.position = position
  local delivery = add(prefix .. "inbox:" .. recipient .. ":" .. priority, "at", position)
  if plan.delivers then plan.delivery = priority .. "/" .. delivery end
  if plan.fences then task.token = mint(meta) end
end

local function write_all()
  for _, plan in ipairs(plans) do write(plan) end
  for _, plan in ipairs(plans) do
    if plan.old then remove(plan.agent, plan.old) end
  end
  for i = 0, settlements - 1 do remove(ARGV[4 + 5 * i], ARGV[5 + 5 * i]) end
  for _, plan in ipairs(plans) do
    local id, name = ARGV[plan.base], ARGV[plan.base + 4]
    if plan.task.last == plan then
      call("HSET", index, id, plan.position, "task:" .. name, record_of(plan.task))
    else
      call("HSET", index, id, plan.position)
    end
  end
end

local done, problem = pcall(write_all)
if not done then
  for _, entry in ipairs(added) do redis.pcall("XDEL", entry[1], entry[2]) end
  return type(problem) == "table" and problem or redis.error_reply(tostring(problem))
end
for i, reply in ipairs(replies) do
  if not reply[1] then
    replies[i] = { "appended", reply.position }
  elseif type(reply[2]) == "table" then
    reply[2] = reply[2].position
  end
end
return replies
