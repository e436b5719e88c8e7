-- Appends envelopes, and settles, parks, replays or drops deliveries, in one atomic step: the only write path to log,
-- inboxes and tasks. A call is a row of units. Each unit is all or nothing, and stands for itself.
--
-- KEYS  1 log   2 index (envelope ID -> position, "task:<id>" -> record, "@agent" of everybody who was sent anything)
--       3 meta
-- ARGV  1 prefix of all other keys; they share the hash slot of KEYS
--       then the units: one envelope, or the number of envelopes and what becomes of a delivery, if anything, then
--       what that is about, then the envelopes:
--         "number", or "number settle agent consumer priority", or "number park agent consumer priority reason"; with
--         one of the last two follow the entry of the inbox, token and task
--         "number replay|drop agent"; task and "position,position…" follow
--       an envelope is its head, ID, task, body, and what the head announces, a token or record and the source. The
--       head is the same for many envelopes, and looked at once in a call: "event sender recipient", then, where that
--       is not all, "with": "t" for a token, "d" for that of the unit's delivery, "=" for the record that the task
--       must have, "-" for none of them, and a "$" behind it where money is announced; then, where anything is other
--       than usual, "priority form sourced origin parent root deadline review", "-" for what is empty. What is
--       announced of money, as money.lua says, stands behind the token or record
-- Reply for each unit its positions, one word each, where all of it was appended; else one array, with for each of its
--       envelopes one of:
--       {"appended", position}   {"repeated", position}   {"other", position}   {"skipped"}
--       {"lifecycle"|"fenced"|"held"|"recipient"|"unknown"|"reserved"|"moved", what the task is}
--       {"budget", asked, and for each account without room: account, period, span, cap, committed, held}
--       {"uncounted"}
--       or, where its delivery is not what the unit says: {"fenced"|"open"|"moved", what the task is}, not nested
--       what the task is: state, delegator, assignee, coordinator, token, lease, consumer
--
-- Two passes: the first decides and writes nothing, so that a refusal changes nothing; the second writes, and takes
-- back what it added when the server refuses a command halfway.

local ARGV, call, find, match, type, concat = ARGV, redis.call, string.find, string.match, type, table.concat
local prefix, log, index, meta = ARGV[1], KEYS[1], KEYS[2], KEYS[3]
-- Three lists that are generated from the lifecycle module, searched as text because a table would be built anew in
-- each call: "|state event>to unreviewed ends unreviewed-ends attempt roles|…", "|event|…", "|event|…".
local RULES, WORK, TO_ASSIGNEE = "--[[RULES]]", "--[[WORK]]", "--[[TO_ASSIGNEE]]"

--[[RECORD]]
-- What the index holds of this call's tasks, envelopes and recipients is asked for in one command, into `found`. Of a
-- task that was not looked at yet, `tasks` has the place there. A call with a single envelope does without most
-- tables, since to make them takes longer than what is done with them.
-- `seen` are the plans by the envelopes' IDs; `undo` are the tasks as they were before a unit that may still be
-- refused after some of it was planned; `spent` are the deliveries, and the lists of parked ones, that earlier units of
-- this call have moved already.
local found, tasks, seen, undo, kept, spent, seldom = nil, nil, nil, nil, nil, nil, nil
-- Whether money is announced in this call, or something that may end a hold.
local pays, closes = false, false

-- What the head of an envelope says: SIZE is the number of its arguments; KNOWN, whether its recipient was sent
-- anything before; PLAIN, whether all is as usual; MONEY, where what it announces of money stands; LOGGED, what the log
-- entry's head says of it, behind task and ID. In a call with several envelopes it keeps the rule for each state.
-- Places: EVENT SENDER RECIPIENT WITH SIZE KIND WORKS ADDRESSED INBOX KNOWN PLAIN MONEY LOGGED
-- and on: PRIORITY FORM SOURCED ORIGIN PARENT ROOT DEADLINE REVIEWED
local function read_head(line)
  local event, sender, recipient, with, more = match(line, "^(%S+) (%S+) (%S+) ?(%S*) ?(.*)$")
  local word = "|" .. event .. "|"
  local works, addressed = sender ~= "@bus" and find(WORK, word, 1, true), find(TO_ASSIGNEE, word, 1, true)
  local tells, kind = with ~= "" and match(with, "^(.)%$$"), match(event, "^%a+")
  with = tells or with
  local size, inbox = (with == "t" or with == "=") and 5 or 4, prefix .. "inbox:" .. recipient .. ":"
  local at = tells and size
  if tells then size = size + 1 end
  local logged = " " .. kind .. " " .. sender .. " " .. recipient
  if more == "" then
    return { event, sender, recipient, with, size, kind, works, addressed, inbox .. "normal", false, true, at, logged,
             "normal", "json", "0", "-", "-", "-", "-", "1" }
  end
  local priority, form, sourced = match(more, "^(%S+) (%S+) (%S+)")
  if sourced == "1" then size = size + 1 end
  return { event, sender, recipient, with, size, kind, works, addressed, inbox .. priority, false, false, at,
           logged, match(more, "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$") }
end

-- First pass: decide. The first result is a plan, or else the second one is the refusal. A plan is both the note of
-- what to write and the answer to fill in: where its arguments begin, which tells it from an answer, since those begin
-- with a word; where the envelope and its delivery came to stand, and the delivery by its name; whose delivery OLD is
-- taken away, and whether somebody else may work on it (AWAY); whether a token is minted; the state before where clocks
-- are set (TIMED); the root where it is another task (OF); whether it was taken back (GONE).
-- Places: BASE HEAD TASK POSITION ENTRY MADE AGENT OLD FENCES DELIVERS MOVE AWAY TIMED OF GONE
-- A rule, as it stands in RULES:
-- Places: TO UNREVIEWED ENDS UNREVIEWED_ENDS ATTEMPT ROLES
local plans, moves = {}, nil
local function decide(base, head, task, move, position)
  local id, name, body = ARGV[base + 1], ARGV[base + 2], ARGV[base + 3]
  if position then return nil, { seldom().same(position, body) and "repeated" or "other", position } end
  local event, sender, recipient, with = head[EVENT], head[SENDER], head[RECIPIENT], head[WITH]
  local before_it, works = task[STATE], head[WORKS]
  local new, by_hand = before_it == "", works
  if new and event ~= (name == "budget" and "budget:cap" or "delegation") then
    return nil, seldom().refused(event == "delegation" and "reserved" or "unknown", task)
  end
  if with == "=" then
    by_hand = false
    local is_known = not task[LAST] and call("HGET", index, task[KEY]) == ARGV[base + 4]
    if not is_known then return nil, seldom().refused("moved", task) end
  elseif with == "t" or with == "d" then
    by_hand = false
    local token = with == "t" and ARGV[base + 4] or move.token
    if works and (token ~= task[TOKEN] or token == "0") then return nil, seldom().refused("fenced", task) end
  end
  local rule = head[before_it]
  if not rule then
    local _, before = find(RULES, "|" .. before_it .. " " .. event .. ">", 1, true)
    if not before then return nil, seldom().refused("lifecycle", task) end
    rule = { match(RULES, "^(%S+) (%S+) (%d) (%d) (%d) ([^|]*)", before + 1) }
    if seen then head[before_it] = rule end
  end
  local to, ends, roles, kind = rule[TO], rule[ENDS], rule[ROLES], head[KIND]
  local parks = kind == "parking"
  local records = parks or kind == "budget"
  if to == "-" then to = before_it end
  -- What is told of deliveries is what becomes of them in this very step.
  if parks and not (move and move.name == name and find(move.tells or "", "|" .. event .. "|", 1, true)) then
    return nil, seldom().refused("lifecycle", task)
  end
  if roles ~= "anyone" and not (roles == "assignee" and sender == task[ASSIGNEE])
    and not seldom().permitted(roles, task, sender) then
    return nil, seldom().refused("lifecycle", task)
  end
  if (recipient ~= task[ASSIGNEE] and head[ADDRESSED])
    or (event == "question" and recipient ~= "@human" and recipient ~= match(task[PEOPLE], "^%S+"))
    or (event == "delegation" and recipient == "@bus") then
    return nil, seldom().refused("recipient", task)
  end
  if by_hand and task[LEASE] ~= "0" and tonumber(task[LEASE]) > seldom().now() then
    return nil, seldom().refused("held", task)
  end
  closes = closes or (not new and kind ~= "status" and kind ~= "answer" and kind ~= "verdict")
  if head[MONEY] then
    local refusal = seldom().money().over(base, head, task, move)
    if refusal then return nil, refusal end
    pays = true
  end

  -- A task as it is before the unit at hand. One that this call has not changed yet can be read again.
  if kept and undo[kept] ~= task then
    undo[kept + 1], undo[kept + 2], kept = task[LAST] and { unpack(task) } or "unchanged", task, kept + 2
  end
  if rule[UNREVIEWED] ~= "-" and task[REVIEW] == "0" then to, ends = rule[UNREVIEWED], rule[UNREVIEWED_ENDS] end
  local stays = to == "submitted" or to == "working"
  if event == "parking:resumed" then records = false end
  local delivers, old = stays and not works and not records, task[DELIVERY]
  -- The delivery before ends when the work ends, is handed out anew, or is taken up by hand; its token ends with it.
  local removes = not new and not records and (old ~= "-" or task[LEASE] ~= "0")
    and ((by_hand and event ~= "status") or delivers or not stays)
  local plan = { base, head, task, false, false, "-", task[ASSIGNEE], removes and old,
                 not new and (delivers or (by_hand and removes)), delivers, parks and move,
                 not works or by_hand, false, false, false }
  -- What settles the delivery takes it out of the inbox.
  if removes and move and old == move.delivery and task[ASSIGNEE] == move.head.agent then plan[OLD] = false end
  if event == "delegation" then
    if new then
      task[PEOPLE] = sender .. " " .. sender .. " 1"
      task[TREE] = head[PLAIN] and ". - -" or seldom().tree(head, name)
    elseif head[DEADLINE] ~= "-" or task[TREE] ~= ". - -" then
      task[TREE], plan[TIMED] = match(task[TREE], "^%S+ %S+ ") .. head[DEADLINE], before_it
    end
    task[ASSIGNEE], task[REVIEW] = recipient, head[REVIEWED]
  elseif event == "escalation" then
    task[PEOPLE] = string.gsub(task[PEOPLE], "^(%S+) %S+", "%1 " .. recipient)
  end
  if task[TREE] ~= ". - -" then
    local root, deadline = match(task[TREE], "^(%S+) %S+ (%S+)$")
    plan[OF] = root ~= "." and root ~= name and root
    if deadline ~= "-" and (event == "delegation" or to ~= before_it) then plan[TIMED] = before_it end
  end
  -- The clocks that supervision reads: a task's deadline, and how long an escalation is with whom it went to.
  if event == "escalation" or before_it == "escalated" then plan[TIMED] = before_it end
  local changes = removes or delivers or to ~= before_it or event == "escalation"
  if removes then
    if plan[OLD] and spent and spent[plan[AGENT]] then spent[plan[AGENT]][old] = true end
    task[LEASE], task[CONSUMER], task[DELIVERY] = "0", "-", "-"
  end
  if delivers then task[DELIVERY] = plan end
  if plan[FENCES] then task[TOKEN] = "-" end
  if changes then task[CAUSE] = ends == "1" and "-" or id end
  if changes or task[LAST] then task[LAST] = plan end
  task[STATE] = to
  if rule[ATTEMPT] == "1" and not new then
    task[PEOPLE] = string.gsub(task[PEOPLE], "%d+$", function(attempt) return string.format("%d", attempt + 1) end)
  end
  if seen then seen[id] = plan end
  plans[#plans + 1] = plan
  return plan
end

-- Of the envelopes of a call: where the arguments of each begin, the heads by their lines, and the place of each ID in
-- `found`. What was delivered again, and the deliveries that are to be taken out of their inboxes.
local bases, heads, places, again, leaving = nil, nil, nil, nil, nil

-- What a single envelope does without, nearly always. A function is made anew in each call that defines it, and a dozen
-- of them cost an append a tenth of its time: these are made when they are first needed.
local seldom_used
function seldom()
  if seldom_used then return seldom_used end
  again, leaving, tasks = {}, {}, tasks or {}
--[[CLOCK]]
--[[INBOX]]
  local function look_up(name)
    local task = tasks[name]
    if type(task) ~= "table" then
      local key, line = "task:" .. name, nil
      if task then line = found[task] else line = call("HGET", index, key) end
      task = read_task(key, line)
      tasks[name] = task
    end
    return task
  end

  local function refused(kind, task)
    if task[STATE] == "" then return { kind, "", "", "", "", "0", "0", "-" } end
    local delegator, coordinator = match(task[PEOPLE], "^(%S+) (%S+)")
    return { kind, task[STATE], delegator, task[ASSIGNEE], coordinator, task[TOKEN], task[LEASE], task[CONSUMER] }
  end

  local function permitted(roles, task, sender)
    local delegator, coordinator = match(task[PEOPLE], "^(%S+) (%S+)")
    return (sender == task[ASSIGNEE] and find(roles, "assignee", 1, true))
      or (sender == delegator and find(roles, "delegator", 1, true))
      or (sender == coordinator and find(roles, "coordinator", 1, true))
      or (sender == "@human" and find(roles, "human", 1, true))
      or (sender == "@bus" and find(roles, "bus", 1, true))
      or find(roles, "anyone", 1, true)
  end

  local function read_in_parts(key, fields)
    if #fields <= 4000 then return #fields > 0 and call("HMGET", key, unpack(fields)) or {} end
    local values = {}
    for first = 1, #fields, 4000 do
      for i, value in ipairs(call("HMGET", key, unpack(fields, first, math.min(first + 3999, #fields)))) do
        values[first + i - 1] = value
      end
    end
    return values
  end

  -- Whether the log holds the same document at a position; what was trimmed cannot be compared.
  local function same(position, body)
    local entry = call("XRANGE", log, position, position)[1]
    if not entry then return true end
    for i = 1, #entry[2], 2 do
      if entry[2][i] == "body" then return entry[2][i + 1] == body end
    end
  end

  -- Root, parent and deadline of a new task.
  local function tree(head, name)
    local parent, root, known = head[PARENT], head[ROOT], nil
    -- The tree of a known parent is a fact; what the sender says of it is taken where the parent is not known.
    if parent ~= "-" and look_up(parent)[STATE] ~= "" then
      known = match(look_up(parent)[TREE], "^%S+")
      if known == "." then known = parent end
    end
    root = known or root ~= "-" and root or parent ~= "-" and parent or name
    return (root == name and "." or root) .. " " .. parent .. " " .. head[DEADLINE]
  end

  local function set_clocks(plan, name)
    local task, before_it, anew = plan[TASK], plan[TIMED], plan[HEAD][EVENT] == "delegation"
    if task[STATE] == "escalated" then
      call("ZADD", prefix .. "escalations", now(), name)
    elseif before_it == "escalated" then
      call("ZREM", prefix .. "escalations", name)
    end
    local is_due = find("|submitted|working|input-required|", "|" .. task[STATE] .. "|", 1, true)
    local deadline = match(task[TREE], "%S+$")
    if deadline == "-" or not is_due then
      call("ZREM", prefix .. "deadlines", name)
    elseif anew or (before_it == "escalated" and tonumber(deadline) > now()) then
      -- One that was over before the work went on has been told of, or needs no telling.
      call("ZADD", prefix .. "deadlines", deadline, name)
    end
  end

--[[UNITS]]
  local money_used
  local function money()
    if money_used then return money_used end
--[[MONEY]]
    money_used = { over = over, count = count }
    return money_used
  end

  seldom_used = {
    now = now, mint = mint, refused = refused, permitted = permitted, same = same, tree = tree,
    read_in_parts = read_in_parts, read_unit = read_unit, unit = unit, consider = consider,
    deliver_again = deliver_again, carry_out = carry_out, set_clocks = set_clocks, remove = remove, money = money,
  }
  return seldom_used
end

local replies, single = {}, nil
if #ARGV > 1 and #ARGV <= 8 and find(ARGV[2], "^%a") then
  single = read_head(ARGV[2])
  if #ARGV ~= single[SIZE] + 1 then single = nil end
end
if single then
  local key = "task:" .. ARGV[4]
  found = call("HMGET", index, key, ARGV[3], single[RECIPIENT])
  single[KNOWN] = found[3]
  local plan, refusal = decide(2, single, read_task(key, found[1]), nil, found[2])
  replies[1] = plan or { refusal }
else
  -- What is said of the envelopes' arguments, and of the units', is kept by their heads; `units` are the heads of the
  -- units, false for a single envelope.
  local unit_heads, units, starts, fields, at = {}, {}, {}, {}, 2
  bases, heads, places, tasks, seen, spent, undo, moves = {}, {}, {}, {}, {}, {}, {}, {}
  while at <= #ARGV do
    local line, count = ARGV[at], 1
    local unit = unit_heads[line] or false
    if not unit and not heads[line] and find(line, "^%d") then
      unit = seldom().read_unit(line)
      unit_heads[line] = unit
    end
    if unit then
      count = unit.count
      starts[#units + 1], at = at + 1, at + 1
      if unit.names then
        local name = ARGV[at + 2]
        unit.names[#unit.names + 1] = unit.priority .. "/" .. ARGV[at]
        if not tasks[name] then
          fields[#fields + 1] = "task:" .. name
          tasks[name] = #fields
        end
        at = at + 3
      elseif unit.kind ~= "" then
        at = at + 2
      end
    end
    units[#units + 1] = unit
    for _ = 1, count do
      line = ARGV[at]
      local head, name, last = heads[line], ARGV[at + 2], #fields
      if not head then
        head = read_head(line)
        heads[line] = head
        last = last + 1
        fields[last], head[KNOWN] = head[RECIPIENT], last
      end
      if not tasks[name] then
        last = last + 1
        fields[last], tasks[name] = "task:" .. name, last
      end
      last = last + 1
      fields[last] = ARGV[at + 1]
      bases[#bases + 1], places[#places + 1] = at, last
      at = at + head[SIZE]
    end
  end
  found = seldom().read_in_parts(index, fields)
  for _, head in pairs(heads) do head[KNOWN] = found[head[KNOWN]] end
  for _, unit in pairs(unit_heads) do
    if unit.names then unit.held = seldom().read_in_parts(prefix .. "held:" .. unit.agent, unit.names) end
  end

  local used, envelope = seldom(), 1
  for i, unit in ipairs(units) do
    if unit then
      replies[i] = used.unit(unit, starts[i], envelope)
      envelope = envelope + unit.count
    else
      kept = nil
      local plan, refusal = used.consider(envelope, nil)
      replies[i] = plan or { refusal }
      envelope = envelope + 1
    end
  end
end

-- Second pass: write. What can be taken back comes first, what cannot comes last.
local function write_all()
  for i = 1, #plans do
    local plan = plans[i]
    local base, head, task = plan[BASE], plan[HEAD], plan[TASK]
    local id, name, body = ARGV[base + 1], ARGV[base + 2], ARGV[base + 3]
    local recipient, root, said, position = head[RECIPIENT], plan[OF], name .. " " .. id .. head[LOGGED], nil
    if head[PLAIN] and not root then
      position = call("XADD", log, "*", "head", said, "body", body)
    else
      local entry = { "head", said }
      local function put(field, value) entry[#entry + 1] = field entry[#entry + 1] = value end
      if root then put("root", root) end
      if head[PRIORITY] ~= "normal" then put("priority", head[PRIORITY]) end
      if head[FORM] ~= "json" then put("form", head[FORM]) end
      put("body", body)
      if head[SOURCED] == "1" then put("source", ARGV[base + head[SIZE] - 1]) put("origin", head[ORIGIN]) end
      position = call("XADD", log, "*", unpack(entry))
    end
    plan[POSITION] = position
    if recipient ~= "@bus" then
      local entry, move = call("XADD", head[INBOX], "*", "at", position), plan[MOVE]
      plan[ENTRY] = entry
      if plan[DELIVERS] and not move then plan[MADE] = head[PRIORITY] .. "/" .. entry end
      if not head[KNOWN] then
        head[KNOWN] = true
        call("SADD", prefix .. "agents", recipient)
        call("HSET", index, recipient, "")
      end
    end
    if plan[MOVE] and plan[MOVE].head.kind == "replay" then seldom().deliver_again(plan[MOVE], plan) end
    if plan[FENCES] then task[TOKEN] = seldom().mint(meta, #plans) end
  end
  local removes = leaving and #leaving > 0
  for i = 1, #plans do
    local plan = plans[i]
    if plan[TIMED] then seldom().set_clocks(plan, ARGV[plan[BASE] + 2]) end
    removes = removes or plan[OLD]
  end
  if moves then
    for _, move in ipairs(moves) do seldom().carry_out(move) end
  end
  if removes then seldom().remove() end
  if pays or (closes and call("EXISTS", prefix .. "holds") == 1) then seldom().money().count() end
  local fields, last = {}, 0
  for i = 1, #plans do
    local plan = plans[i]
    local task = plan[TASK]
    fields[last + 1], fields[last + 2], last = ARGV[plan[BASE] + 1], plan[POSITION], last + 2
    if task[LAST] == plan then
      -- Made in this very call, the delivery stands in the plan that made it.
      if type(task[DELIVERY]) == "table" then task[DELIVERY] = task[DELIVERY][MADE] end
      fields[last + 1], fields[last + 2], last = task[KEY], record_of(task), last + 2
    end
  end
  for first = 1, last, 4000 do call("HSET", index, unpack(fields, first, math.min(first + 3999, last))) end
end

local done, problem = pcall(write_all)
if not done then
  for _, plan in ipairs(plans) do
    if plan[POSITION] then redis.pcall("XDEL", log, plan[POSITION]) end
    if plan[ENTRY] then redis.pcall("XDEL", plan[HEAD][INBOX], plan[ENTRY]) end
  end
  for i = 1, again and #again or 0, 2 do redis.pcall("XDEL", again[i], again[i + 1]) end
  return type(problem) == "table" and problem or redis.error_reply(tostring(problem))
end
for i, answers in ipairs(replies) do
  if type(answers[1]) == "number" then
    replies[i] = answers[POSITION]
  else
    local positions, count = {}, 0
    for k, answer in ipairs(answers) do
      if type(answer[1]) == "number" then
        positions[k], count = answer[POSITION], count + 1
      elseif type(answer[2]) == "table" then
        answer[2] = answer[2][POSITION]
      end
    end
    if count > 0 and count == #answers then
      replies[i] = concat(positions, " ")
    else
      for k, position in pairs(positions) do answers[k] = { "appended", position } end
    end
  end
end
return replies
