-- Appends envelopes, and settles, parks, replays or drops deliveries, in one atomic step: the only write path to log,
-- inboxes and tasks. A call is a row of units. Each unit is all or nothing, and stands for itself.
--
-- KEYS  1 log   2 index (envelope ID -> position, "task:<id>" -> record, "@agent" of everybody who was sent anything)
--       3 meta
-- ARGV  1 prefix of all other keys; they share the hash slot of KEYS
--       then for each unit its head, and 9 arguments for each of its envelopes. The head are words, the first of them
--       the number of envelopes, the others what becomes of a delivery, if anything:
--         settle agent delivery token consumer task
--         park agent delivery token consumer task reason
--         replay|drop agent task position,position…
--       an envelope: 0 id, 1 event, 2 sender, 3 recipient, 4 task, 5 token, or "=" and the record that the task must
--       have, or "", 6 what is seldom other than usual, 7 body, 8 source or "". The seldom ones are one line of words,
--       "-" for what is empty: parent, root, priority, deadline, review, form, origin
-- Reply for each unit one array, with for each of its envelopes one of:
--       {"appended", position}   {"repeated", position}   {"other", position}   {"skipped"}
--       {"lifecycle"|"fenced"|"held"|"recipient"|"unknown"|"moved", what the task is}
--       or, where its delivery is not what the unit says: {"fenced"|"open"|"moved", what the task is}, not nested
--       what the task is: state, delegator, assignee, coordinator, token, lease, consumer
--
-- Two passes: the first decides and writes nothing, so that a refusal changes nothing; the second writes, and takes
-- back what it added when the server refuses a command halfway.

local ARGV, call, find, match = ARGV, redis.call, string.find, string.match
local prefix, log, index, meta = ARGV[1], KEYS[1], KEYS[2], KEYS[3]
-- Three lists that are generated from the lifecycle module, searched as text because a table would be built anew in
-- each call: "|state event>to unreviewed attempt roles|…", "|event|…", "|event|…".
local RULES, WORK, TO_ASSIGNEE = "--[[RULES]]", "--[[WORK]]", "--[[TO_ASSIGNEE]]"

--[[TASK]]
-- What the index holds of this call's tasks, envelopes and recipients; asked for in one command. A call with a single
-- envelope does without most tables, since to make them takes longer than what is done with them: `knows` says then
-- whether its recipient was sent anything before.
local single = #ARGV == 11 and ARGV[2] == "1"
local tasks, lines, positions, known, knows, seldom = {}, nil, nil, nil, false, nil
if not single then lines, positions, known = {}, {}, {} end
local function look_up(name)
  local task = tasks[name]
  if not task then
    if single then
      task = read_task(name, call("HGET", index, "task:" .. name))
    else
      if lines[name] == nil then seldom().ask({ name }, {}, {}) end
      task = read_task(name, lines[name])
    end
    tasks[name] = task
  end
  return task
end

local function refused(kind, task)
  return { kind, task.state, task.delegator, task.assignee, task.coordinator, task.token, task.lease, task.consumer }
end

local function permitted(roles, task, sender)
  return (sender == task.assignee and find(roles, "assignee", 1, true))
    or (sender == task.delegator and find(roles, "delegator", 1, true))
    or (sender == task.coordinator and find(roles, "coordinator", 1, true))
    or (sender == "@human" and find(roles, "human", 1, true))
    or (sender == "@bus" and find(roles, "bus", 1, true))
    or find(roles, "anyone", 1, true)
end

-- What is seldom other than usual.
local function unfold(rest)
  if rest == "- - normal - 1 json -" then return "-", "-", "normal", "-", "1", "json", "-" end
  return match(rest, "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$")
end

-- First pass: decide. A plan is both the note of what to write and the answer to fill in; `saved` are the tasks as
-- they were before a unit that may still be refused after some of it was planned.
-- `spent` are the deliveries, and the lists of parked ones, that earlier units of this call have moved already.
local plans, moves, seen, saved, spent = {}, nil, nil, nil, nil
if not single then moves, seen, spent = {}, {}, {} end
local function decide(base, move, position)
  local id, event, sender, recipient, name, token, rest, body = unpack(ARGV, base, base + 7)
  local parent, root, priority, deadline, review = unfold(rest)
  local first = seen and seen[id]
  if first then return { ARGV[first.base + 7] == body and "repeated" or "other", first } end
  local task = look_up(name)
  if position then return { seldom().same(position, body) and "repeated" or "other", position } end
  local before_it = task.state
  local new, works = before_it == "", sender ~= "@bus" and find(WORK, "|" .. event .. "|", 1, true)
  if new and event ~= "delegation" then return refused("unknown", task) end
  if token ~= "" then
    if find(token, "=", 1, true) == 1 then
      if task.last or call("HGET", index, "task:" .. name) ~= string.sub(token, 2) then return refused("moved", task) end
    elseif works and (token ~= task.token or token == "0") then
      return refused("fenced", task)
    end
  end
  local parks = find(event, "parking", 1, true)
  local _, before = find(RULES, "|" .. before_it .. " " .. event .. ">", 1, true)
  -- What is told of deliveries is what becomes of them in this very step.
  if not before or (parks and not (move and move.name == name and find(move.tells, "|" .. event .. "|", 1, true))) then
    return refused("lifecycle", task)
  end
  local to, unreviewed, attempt, roles = match(RULES, "^(%S+) (%S+) (%d) ([^|]*)", before + 1)
  if not permitted(roles, task, sender) then return refused("lifecycle", task) end
  if (recipient ~= task.assignee and find(TO_ASSIGNEE, "|" .. event .. "|", 1, true))
    or (event == "question" and recipient ~= task.delegator and recipient ~= "@human")
    or (event == "delegation" and recipient == "@bus") then
    return refused("recipient", task)
  end
  local by_hand = works and token == ""
  if by_hand and task.lease ~= "0" and tonumber(task.lease) > now() then return refused("held", task) end

  if saved then seldom().keep(task) end
  if unreviewed ~= "-" and task.review == "0" then to = unreviewed end
  local stays = to == "submitted" or to == "working"
  local records = parks and event ~= "parking:resumed"
  local delivers = stays and not works and not records
  -- The delivery before ends when the work ends, is handed out anew, or is taken up by hand; its token ends with it.
  local removes = not new and not records and (task.delivery ~= "-" or task.lease ~= "0")
    and ((by_hand and event ~= "status") or delivers or not stays)
  local plan = {
    base = base, task = task, agent = task.assignee, priority = priority, delivers = delivers, delivery = "-",
    old = removes and task.delivery, fences = not new and (delivers or (by_hand and removes)), position = false,
    move = parks and move, away = not (works and token ~= ""),
  }
  if new then
    task.delegator, task.coordinator, task.parent = sender, sender, parent
    -- The tree of a known parent is a fact; what the sender says of it is taken where the parent is not known.
    local known = parent ~= "-" and look_up(parent).root or ""
    task.root = known ~= "" and known or root ~= "-" and root or parent ~= "-" and parent or name
  end
  -- The clocks that supervision reads: a task's deadline, and how long an escalation is with whom it went to.
  -- A delegation begins the task's time anew, whatever it was before.
  if event == "escalation" or before_it == "escalated"
    or ((task.deadline ~= "-" or deadline ~= "-") and (event == "delegation" or to ~= before_it)) then
    plan.timed, plan.anew = before_it, event == "delegation"
  end
  if event == "delegation" then
    task.assignee, task.deadline, task.review = recipient, deadline, review
  elseif event == "escalation" then
    task.coordinator = recipient
  end
  local changes = removes or delivers or to ~= before_it or event == "escalation"
  if removes then
    if spent and type(task.delivery) == "string" then spent[plan.agent .. " " .. task.delivery] = true end
    task.lease, task.consumer, task.delivery = "0", "-", "-"
  end
  if delivers then task.delivery = plan end
  if plan.fences then task.token = "-" end
  if changes then task.cause = id end
  if changes or task.last then task.last = plan end
  task.state = to
  if attempt == "1" then task.attempt = string.format("%d", task.attempt + 1) end
  if seen then seen[id] = plan end
  plans[#plans + 1] = plan
  return plan
end

local added = {}
local function add(stream, ...)
  local entry = call("XADD", stream, "*", ...)
  added[#added + 1] = stream
  added[#added + 1] = entry
  return entry
end

-- What most calls do without. A function is made anew in each call that defines it, and five of them cost an append a
-- tenth of its time: these are made when they are first needed.
local seldom_used
function seldom()
  if seldom_used then return seldom_used end
--[[INBOX]]
  local function ask(names, ids, recipients)
    local fields, count = {}, #names
    for i = 1, count do fields[i] = "task:" .. names[i] end
    for i = 1, #ids do fields[count + i] = ids[i] end
    for i = 1, #recipients do fields[count + #ids + i] = recipients[i] end
    for first = 1, #fields, 1000 do
      local found = call("HMGET", index, unpack(fields, first, math.min(first + 999, #fields)))
      for i = 1, #found do
        local at = first + i - 1
        if at <= count then
          lines[names[at]] = found[i]
        elseif at <= count + #ids then
          positions[ids[at - count]] = found[i]
        else
          known[recipients[at - count - #ids]] = found[i]
        end
      end
    end
  end

  -- Whether the log holds the same document at a position; what was trimmed cannot be compared.
  local function same(position, body)
    local entry = call("XRANGE", log, position, position)[1]
    if not entry then return true end
    for i = 1, #entry[2], 2 do
      if entry[2][i] == "body" then return entry[2][i + 1] == body end
    end
  end

  local function keep(task)
    if not saved or saved[task] then return end
    local copy = {}
    for field, value in pairs(task) do copy[field] = value end
    saved[task] = copy
  end

  -- What a unit says of a delivery: what to do with it, and why it cannot be done. A delivery that is gone was settled
  -- before: by this very call, whose outcomes are then in the log, or by somebody else; `moved` where lines are.
  local function to_move(words)
    local kind, rest = match(words, "^(%a+) (.+)$")
    local move = { kind = kind, tells = kind == "park" and "|parking:parked|" or "" }
    if kind == "replay" or kind == "drop" then
      move.agent, move.name, move.positions = match(rest, "^(%S+) (%S+) (%S+)$")
      move.parked = prefix .. "parked:" .. move.agent
      local lines = call("HGET", move.parked, move.name) or ""
      move.chosen, move.left = {}, {}
      local resumes
      for line in string.gmatch(lines, "[^\n]+") do
        local is_chosen = find("," .. move.positions .. ",", "," .. match(line, "^%S+") .. ",", 1, true)
        local list = is_chosen and move.chosen or move.left
        list[#list + 1] = line
        resumes = resumes or (is_chosen and match(line, "^%S+ %S+ %S+ %S+ %S+ 1 "))
      end
      move.tells = kind == "drop" and "|parking:dropped|" or "|parking:replayed|"
      -- Only who is to do the work can go on with it, and only where it is the work that comes back.
      if kind == "replay" and resumes and look_up(move.name).assignee == move.agent then
        move.tells = move.tells .. "parking:resumed|"
      end
      local _, wanted = string.gsub(move.positions, "[^,]+", "")
      if #move.chosen ~= wanted or spent[move.parked .. " " .. move.name] then
        return move, nil, refused("moved", look_up(move.name))
      end
      return move
    end
    local token, consumer
    move.agent, move.delivery, token, consumer, move.name, move.reason = match(rest, "^(%S+) (%S+) (%S+) (%S+) (%S+) ?(%S*)$")
    local held = not spent[move.agent .. " " .. move.delivery] and call("HGET", prefix .. "held:" .. move.agent, move.delivery)
    local was, by, tries = match(held or "", "^(%d+) (%S+) (%d+)")
    move.tries = tries
    if not held then return move, nil, { "fenced", "", "", move.agent, "", "-", "0", "-" } end
    if was ~= token or by ~= consumer then
      return move, { "fenced", "", "", move.agent, "", was, "0", by }
    end
    local task = look_up(move.name)
    move.work = task.delivery == move.delivery and task.assignee == move.agent
    return move
  end

  -- Takes back what a refused unit had planned.
  local function forget(first)
    for i = #plans, first + 1, -1 do
      plans[i].gone = true
      if type(plans[i].old) == "string" then spent[plans[i].agent .. " " .. plans[i].old] = nil end
      seen[ARGV[plans[i].base]] = nil
      plans[i] = nil
    end
    for task, copy in pairs(saved or {}) do
      for field, value in pairs(copy) do task[field] = value end
    end
  end

  -- Puts what was set aside back into its inbox. The work is the newest of it: an answer, or a later delegation.
  local function deliver_again(move, plan)
    local task, work_entry = plan.task, nil
    for _, line in ipairs(move.chosen) do
      local position, priority, _, _, _, work, delivery = match(line, "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$")
      local entry = priority .. "/" .. add(prefix .. "inbox:" .. move.agent .. ":" .. priority, "at", position, "again", "1")
      if work == "1" then work_entry = entry end
      if not plan.delivers and task.delivery == delivery then task.delivery, task.last = entry, task.last or plan end
    end
    if plan.delivers then plan.delivery = work_entry or "-" end
  end

  local function carry_out(move)
    if move.delivery then
      if move.kind == "park" then
        local priority, entry = match(move.delivery, "^(%a+)/(.+)$")
        local found = call("XRANGE", prefix .. "inbox:" .. move.agent .. ":" .. priority, entry, entry)[1]
        if found then
          local line = { found[2][2], priority, move.tries, move.reason, number(now()), move.work and 1 or 0, move.delivery }
          set_aside(prefix .. "parked:" .. move.agent, move.name, table.concat(line, " "))
        end
      end
    elseif #move.left > 0 then
      call("HSET", move.parked, move.name, table.concat(move.left, "\n"))
    else
      call("HDEL", move.parked, move.name)
    end
  end

  local function set_clocks(task, before_it, anew)
    if task.state == "escalated" then
      call("ZADD", prefix .. "escalations", now(), task.name)
    elseif before_it == "escalated" then
      call("ZREM", prefix .. "escalations", task.name)
    end
    local is_due = find("|submitted|working|input-required|", "|" .. task.state .. "|", 1, true)
    if task.deadline == "-" or not is_due then
      call("ZREM", prefix .. "deadlines", task.name)
    elseif anew or (before_it == "escalated" and tonumber(task.deadline) > now()) then
      -- One that was over before the work went on has been told of, or needs no telling.
      call("ZADD", prefix .. "deadlines", task.deadline, task.name)
    end
  end

  local function unit(base, count, words)
    local first, answers, whole, move, problem, gone = #plans, {}, true, nil, nil, nil
    saved = (count > 1 or words) and {} or nil
    if words then
      move, problem, gone = to_move(words)
      if problem then return problem end
    end
    for i = 1, count do
      local answer = decide(base + 9 * (i - 1), move, positions[ARGV[base + 9 * (i - 1)]])
      if answer[1] and answer[1] ~= "repeated" then whole = false end
      answers[i] = answer
    end
    if gone and (#plans > first or not whole) then problem = gone end
    -- Work that is still open cannot be settled without its outcome: nobody would have it in hand any more.
    local task = move and move.delivery and look_up(move.name)
    if task and whole and task.delivery == move.delivery and task.assignee == move.agent then
      problem = refused("open", task)
    end
    if problem then
      forget(first)
      return problem
    end
    if whole then
      -- A repetition that finds every record in the log moves nothing: what it moved then may have been parked again.
      if move and (move.kind == "settle" or (not gone and #plans > first)) then
        moves[#moves + 1] = move
        if move.delivery then spent[move.agent .. " " .. move.delivery] = true end
        if move.kind ~= "settle" then spent[prefix .. "parked:" .. move.agent .. " " .. move.name] = true end
      end
      return answers
    end
    if saved then
      forget(first)
      for i, answer in ipairs(answers) do
        if answer[1] == "other" and type(answer[2]) == "table" and answer[2].gone then
          answer[2] = ""
        elseif not answer[1] or (type(answer[2]) == "table" and answer[2].gone) then
          answers[i] = { "skipped" }
        end
      end
    end
    return answers
  end

  -- Takes the deliveries out of their inboxes whose work has ended, or that were settled or parked.
  local function remove()
    local gone = {}
    local function go(agent, delivery)
      if type(delivery) == "table" then delivery = delivery.delivery end
      gone[agent] = gone[agent] or {}
      -- A settlement and its outcome name the same one.
      if delivery ~= "-" and not gone[agent][delivery] then
        gone[agent][delivery] = true
        table.insert(gone[agent], delivery)
      end
    end
    for _, move in ipairs(moves or {}) do
      if move.delivery then go(move.agent, move.delivery) end
    end
    for _, plan in ipairs(plans) do
      if plan.old then
        local before = gone[plan.agent] and #gone[plan.agent] or 0
        go(plan.agent, plan.old)
        gone[plan.agent].away = gone[plan.agent].away or (plan.away and #gone[plan.agent] > before)
      end
    end
    for agent, list in pairs(gone) do
      local entries = {}
      for _, delivery in ipairs(list) do
        local priority, entry = match(delivery, "^(%a+)/(.+)$")
        local inbox = prefix .. "inbox:" .. agent .. ":" .. priority
        entries[inbox] = entries[inbox] or {}
        table.insert(entries[inbox], entry)
      end
      for inbox, given in pairs(entries) do
        for first = 1, #given, 1000 do
          local last = math.min(first + 999, #given)
          call("XACK", inbox, agent, unpack(given, first, last))
          call("XDEL", inbox, unpack(given, first, last))
        end
      end
      for first = 1, #list, 1000 do
        local last = math.min(first + 999, #list)
        if call("HDEL", prefix .. "held:" .. agent, unpack(list, first, last)) > 0 then
          call("ZREM", prefix .. "leases:" .. agent, unpack(list, first, last))
          -- Whoever works on what was taken away is to hear of it at once.
          if gone[agent].away then call("XADD", prefix .. "bell:" .. agent, "MAXLEN", 1, "*", "at", "0") end
        end
      end
    end
  end

  seldom_used = {
    ask = ask, same = same, keep = keep, unit = unit, deliver_again = deliver_again, carry_out = carry_out,
    set_clocks = set_clocks, remove = remove,
  }
  return seldom_used
end

local replies = {}
if single then
  local found = call("HMGET", index, "task:" .. ARGV[7], ARGV[3], ARGV[6])
  tasks[ARGV[7]] = read_task(ARGV[7], found[1])
  knows = found[3]
  replies[1] = { decide(3, nil, found[2]) }
else
  local names, ids, recipients, bases, at = {}, {}, {}, {}, 2
  while at <= #ARGV do
    local count = ARGV[at] == "1" and 1 or tonumber(match(ARGV[at], "^%d+"))
    bases[#bases + 1] = at
    for base = at + 1, at + 9 * count, 9 do
      local name, recipient = ARGV[base + 4], ARGV[base + 3]
      ids[#ids + 1] = ARGV[base]
      if lines[name] == nil then
        lines[name] = false
        names[#names + 1] = name
      end
      if known[recipient] == nil then
        known[recipient] = false
        recipients[#recipients + 1] = recipient
      end
    end
    at = at + 1 + 9 * count
  end
  if #ids > 0 then seldom().ask(names, ids, recipients) end
  for i, base in ipairs(bases) do
    if ARGV[base] == "1" then
      saved = nil
      replies[i] = { decide(base + 1, nil, positions[ARGV[base + 1]]) }
    else
      local count, words = match(ARGV[base], "^(%d+) ?(.*)$")
      replies[i] = seldom().unit(base + 1, tonumber(count), words ~= "" and words)
    end
  end
end

-- Second pass: write. What can be taken back comes first, what cannot comes last.
local function write(plan)
  local task, priority = plan.task, plan.priority
  local id, event, sender, recipient, name, _, rest, body, source = unpack(ARGV, plan.base, plan.base + 8)
  local kind, position = match(event, "^%a+"), nil
  if task.root == name and rest == "- - normal - 1 json -" then
    position = add(log, "id", id, "type", kind, "from", sender, "to", recipient, "task", name, "body", body)
  else
    local _, _, _, _, _, form, origin = unfold(rest)
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
  if recipient ~= "@bus" then
    local delivery = add(prefix .. "inbox:" .. recipient .. ":" .. priority, "at", position)
    if plan.delivers and not plan.move then plan.delivery = priority .. "/" .. delivery end
    if not (knows or (known and known[recipient])) then
      if known then known[recipient] = true end
      call("SADD", prefix .. "agents", recipient)
      call("HSET", index, recipient, "")
    end
  end
  if plan.move and plan.move.chosen and plan.move.kind == "replay" then
    seldom().deliver_again(plan.move, plan)
  end
  if plan.fences then task.token = mint(meta, #plans) end
end

local function write_all()
  for _, plan in ipairs(plans) do write(plan) end
  local removes = moves and #moves > 0
  for _, plan in ipairs(plans) do
    if plan.timed then seldom().set_clocks(plan.task, plan.timed, plan.anew) end
    removes = removes or plan.old
  end
  if moves then
    for _, move in ipairs(moves) do seldom().carry_out(move) end
  end
  if removes then seldom().remove() end
  if #plans == 1 and plans[1].task.last == plans[1] then
    local plan = plans[1]
    call("HSET", index, ARGV[plan.base], plan.position, "task:" .. ARGV[plan.base + 4], record_of(plan.task))
    return
  end
  local fields = {}
  for _, plan in ipairs(plans) do
    fields[#fields + 1] = ARGV[plan.base]
    fields[#fields + 1] = plan.position
    if plan.task.last == plan then
      fields[#fields + 1] = "task:" .. ARGV[plan.base + 4]
      fields[#fields + 1] = record_of(plan.task)
    end
  end
  for first = 1, #fields, 1000 do call("HSET", index, unpack(fields, first, math.min(first + 999, #fields))) end
end

local done, problem = pcall(write_all)
if not done then
  for i = 1, #added, 2 do redis.pcall("XDEL", added[i], added[i + 1]) end
  return type(problem) == "table" and problem or redis.error_reply(tostring(problem))
end
for _, answers in ipairs(replies) do
  for i, answer in ipairs(answers) do
    if type(answer) == "table" then
      if not answer[1] then
        answers[i] = { "appended", answer.position }
      elseif type(answer[2]) == "table" then
        answer[2] = answer[2].position
      end
    end
  end
end
return replies
