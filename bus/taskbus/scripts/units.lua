-- Units of an append that are more than one envelope: several of them that stand or fall together, and what becomes of
-- a delivery with them. A part of append.lua, made when a call has need of it.

-- What the first line of a unit says, and what this call has to say of its deliveries: their names, what `held` has of
-- each, and those that are to be taken out of the inbox.
local function read_unit(line)
  local unit, count = { at = 0 }, nil
  count, unit.kind, unit.agent, unit.consumer, unit.priority, unit.reason =
    match(line, "^(%d+) ?(%S*) ?(%S*) ?(%S*) ?(%S*) ?(%S*)$")
  unit.count = tonumber(count)
  if unit.kind == "settle" or unit.kind == "park" then
    spent[unit.agent] = spent[unit.agent] or {}
    unit.names, unit.gone, unit.entries, unit.spent = {}, {}, {}, spent[unit.agent]
  end
  return unit
end

-- What a unit says of a delivery: what to do with it, and why it cannot be done. A delivery that is gone was settled
-- before: by this very call, whose outcomes are then in the log, or by somebody else; `moved` where lines are.
-- Nobody looks at what settles a delivery after its unit: it is noted in one table for all of them.
local settling = {}
local function to_settle(head, base)
  local at = head.at + 1
  local delivery, token, name, held = head.names[at], ARGV[base + 1], ARGV[base + 2], head.held[at]
  local move = head.kind == "settle" and settling or { tells = "|parking:parked|" }
  head.at, move.head, move.delivery, move.token, move.name = at, head, delivery, token, name
  if not held or head.spent[delivery] then return move, nil, { "fenced", "", "", head.agent, "", "-", "0", "-" } end
  if find(held, token .. " " .. head.consumer .. " ", 1, true) ~= 1 then
    local was, by = match(held, "^(%d+) (%S+)")
    return move, { "fenced", "", "", head.agent, "", was, "0", by }
  end
  if head.kind == "park" then
    local task = look_up(name)
    move.tries = match(held, "^%d+ %S+ (%d+)")
    move.work = task[DELIVERY] == delivery and task[ASSIGNEE] == head.agent
  end
  return move
end

local function to_unpark(head, base)
  local agent, name, positions = head.agent, ARGV[base], ARGV[base + 1]
  local move = { head = head, name = name, parked = prefix .. "parked:" .. agent, chosen = {}, left = {} }
  local lines, resumes = call("HGET", move.parked, name) or "", nil
  for line in string.gmatch(lines, "[^\n]+") do
    local is_chosen = find("," .. positions .. ",", "," .. match(line, "^%S+") .. ",", 1, true)
    local list = is_chosen and move.chosen or move.left
    list[#list + 1] = line
    resumes = resumes or (is_chosen and match(line, "^%S+ %S+ %S+ %S+ %S+ 1 "))
  end
  -- Only who is to do the work can go on with it, and only where it is the work that comes back.
  move.tells = head.kind == "drop" and "|parking:dropped|"
    or resumes and look_up(name)[ASSIGNEE] == agent and "|parking:replayed|parking:resumed|" or "|parking:replayed|"
  local _, wanted = string.gsub(positions, "[^,]+", "")
  local is_there = #move.chosen == wanted and not (spent[move.parked] and spent[move.parked][name])
  return move, nil, not is_there and refused("moved", look_up(name)) or nil
end

local function consider(envelope, move)
  local base = bases[envelope]
  local first = seen[ARGV[base + 1]]
  if first then return nil, { ARGV[first[BASE] + 3] == ARGV[base + 3] and "repeated" or "other", first } end
  return decide(base, heads[ARGV[base]], look_up(ARGV[base + 2]), move, found[places[envelope]])
end

-- Takes back what a refused unit had planned.
local function forget(first)
  for i = #plans, first + 1, -1 do
    local plan = plans[i]
    plan[GONE] = true
    if plan[OLD] and spent[plan[AGENT]] then spent[plan[AGENT]][plan[OLD]] = nil end
    seen[ARGV[plan[BASE] + 1]] = nil
    plans[i] = nil
  end
  for i = kept, 2, -2 do
    local task, copy = undo[i], undo[i - 1]
    if copy == "unchanged" then copy = read_task(task[KEY], call("HGET", index, task[KEY])) end
    for place, value in ipairs(copy) do task[place] = value end
  end
end

local function unit(head, base, envelope)
  local first, answers, whole, move, problem, gone = #plans, head.count > 1 and {}, true, nil, nil, nil
  local plan, refusal = nil, nil
  kept = 0
  if head.kind ~= "" then
    move, problem, gone = (head.names and to_settle or to_unpark)(head, base)
    if problem then return problem end
  end
  for i = 1, head.count do
    plan, refusal = consider(envelope + i - 1, move)
    if refusal and refusal[1] ~= "repeated" then whole = false end
    if answers then answers[i] = plan or refusal end
  end
  if gone and (#plans > first or not whole) then problem = gone end
  -- Work that is still open cannot be settled without its outcome: nobody would have it in hand any more.
  local task = whole and head.names and look_up(move.name)
  if task and task[DELIVERY] == move.delivery and task[ASSIGNEE] == head.agent then
    problem = gone or refused("open", task)  -- of what somebody else has in hand, nothing is to be settled here
  end
  if problem then
    forget(first)
    return problem
  end
  if whole then
    -- A repetition that finds every record in the log moves nothing: what it moved then may have been parked again.
    if move and (head.kind == "settle" or (not gone and #plans > first)) then
      if head.names then
        local last = #head.gone + 1
        if last == 1 then leaving[#leaving + 1] = head end
        head.gone[last], head.entries[last], head.spent[move.delivery] = move.delivery, ARGV[base], true
      end
      if head.kind ~= "settle" then
        local parked = prefix .. "parked:" .. head.agent
        spent[parked] = spent[parked] or {}
        moves[#moves + 1], spent[parked][move.name] = move, true
      end
    end
    return answers or plan or { refusal }
  end
  forget(first)
  answers = answers or { refusal }
  for i, answer in ipairs(answers) do
    local is_plan = type(answer[1]) == "number"
    local was_planned = not is_plan and type(answer[2]) == "table" and answer[2][GONE]
    if answer[1] == "other" and was_planned then
      answer[2] = ""
    elseif is_plan or was_planned then
      answers[i] = { "skipped" }
    end
  end
  return answers
end

-- Puts what was set aside back into its inbox. The work is the newest of it: an answer, or a later delegation.
local function deliver_again(move, plan)
  local task, work_entry = plan[TASK], nil
  for _, line in ipairs(move.chosen) do
    local position, priority, _, _, _, work, delivery = match(line, "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$")
    local inbox = prefix .. "inbox:" .. move.head.agent .. ":" .. priority
    local entry = call("XADD", inbox, "*", "at", position, "again", "1")
    again[#again + 1], again[#again + 2] = inbox, entry
    entry = priority .. "/" .. entry
    call("ZADD", prefix .. "again", match(position, "^%d+"), move.head.agent .. " " .. entry .. " " .. position)
    if work == "1" then work_entry = entry end
    if not plan[DELIVERS] and task[DELIVERY] == delivery and task[ASSIGNEE] == move.head.agent then
      task[DELIVERY], task[LAST] = entry, task[LAST] or plan
    end
  end
  if plan[DELIVERS] then plan[MADE] = work_entry or "-" end
end

local function carry_out(move)
  local agent, kind = move.head.agent, move.head.kind
  if kind == "park" then
    local priority, entry = match(move.delivery, "^(%a+)/(.+)$")
    local found = call("XRANGE", prefix .. "inbox:" .. agent .. ":" .. priority, entry, entry)[1]
    if found then
      local work = move.work and 1 or 0
      local line = { found[2][2], priority, move.tries, move.head.reason, number(now()), work, move.delivery }
      set_aside(prefix .. "parked:" .. agent, move.name, concat(line, " "))
    end
  elseif #move.left > 0 then
    call("HSET", move.parked, move.name, table.concat(move.left, "\n"))
  else
    call("HDEL", move.parked, move.name)
  end
end

-- Takes entries out of an inbox. The server looks for each of them from the beginning of a long node; so a row of IDs,
-- as what was appended in one step has them, is cut off in one where it stands first.
local ROW = 8
local function take_out(inbox, entries, first, last)
  local rest, from, ms, sequence = {}, first, nil, nil
  local function end_row(at)
    local head = at - from + 1 >= ROW and call("XRANGE", inbox, "-", "+", "COUNT", 1)[1]
    if head and head[1] == entries[from] then
      call("XTRIM", inbox, "MINID", ms .. "-" .. number(sequence + 1))
    else
      for i = from, at do rest[#rest + 1] = entries[i] end
    end
    from = at + 1
  end
  for i = first, last do
    local a, b = match(entries[i], "^(%d+)%-(%d+)$")
    b = tonumber(b)
    if ms and (a ~= ms or b ~= sequence + 1) then end_row(i - 1) end
    ms, sequence = a, b
  end
  end_row(last)
  if #rest > 0 then call("XDEL", inbox, unpack(rest)) end
end

-- Takes the deliveries out of their inboxes whose work has ended, or that were settled or parked.
local function remove()
  local others = {}
  for i = 1, #plans do
    local plan = plans[i]
    local delivery, agent = plan[OLD], plan[AGENT]
    if type(delivery) == "table" then delivery = delivery[MADE] end
    if delivery and delivery ~= "-" then
      local priority, entry = match(delivery, "^(%a+)/(.+)$")
      local of = others[agent .. " " .. priority]
      if not of then
        of = { agent = agent, priority = priority, gone = {}, entries = {} }
        others[agent .. " " .. priority], leaving[#leaving + 1] = of, of
      end
      of.gone[#of.gone + 1], of.entries[#of.entries + 1], of.away = delivery, entry, of.away or plan[AWAY]
    end
  end
  for _, of in ipairs(leaving) do
    local agent, inbox = of.agent, prefix .. "inbox:" .. of.agent .. ":" .. of.priority
    for first = 1, #of.gone, 1000 do
      local last = math.min(first + 999, #of.gone)
      take_out(inbox, of.entries, first, last)
      if call("HDEL", prefix .. "held:" .. agent, unpack(of.gone, first, last)) > 0 then
        call("ZREM", prefix .. "leases:" .. agent, unpack(of.gone, first, last))
        -- Whoever works on what was taken away is to hear of it at once.
        if of.away then call("XADD", prefix .. "bell:" .. agent, "MAXLEN", 1, "*", "at", "0") end
      end
    end
  end
end
