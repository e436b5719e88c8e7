-- Money: what envelopes commit, reserve and give back, and whether a reservation fits. A part of append.lua, made when
-- a call has need of it. The log is the truth; this is its fold, kept in the same step (`taskbus.money` is the same in
-- Python, and both are compared).
--
-- `budget` holds by "account span" three numbers, "committed held unpriced-calls"; by "cap account period" a recorded
-- cap, "-" for the decision that there is none; by "warned account span cap" that this was told of; by "holds" how many
-- are open. `holds` has by its task the open hold: "id amount provider agent root position token model".
-- What an envelope announces are lines: "r id amount provider model" reserves, "c account period cap" is a cap of the
-- sender's policy, "s provider amount" was spent, "u provider" has no price, "e id" ends that hold, "k account period
-- cap" is a decision, "w account span cap" a warning. Names are quoted, so that no word has a space in it.
local budget, holds, MOST = prefix .. "budget", prefix .. "holds", 9007199254740991
-- What this call makes of it, up to the envelope whose arguments begin at `newest` as the plan with number `applied`.
local fields, lines, changed, applied, newest

local function start_over() fields, lines, changed, applied, newest = {}, {}, {}, 0, nil end
start_over()

local function get(field)
  if fields[field] == nil then fields[field] = call("HGET", budget, field) or false end
  return fields[field]
end

local function put(field, value) fields[field], changed[field] = value, true end

local function hold_of(name)
  if lines[name] == nil then lines[name] = call("HGET", holds, name) or false end
  return lines[name]
end

-- Month and day of a position, in UTC: the civil calendar from the count of days.
local days = {}
local function spans(position)
  local ms = tonumber(match(position, "^%d+"))
  local day = math.floor(ms / 86400000)
  if not days[day] then
    local z = day + 719468
    local era = math.floor(z / 146097)
    local of_era = z - era * 146097
    local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
      - math.floor(of_era / 146096)) / 365)
    local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
    local part = math.floor((5 * of_year + 2) / 153)
    local month = part < 10 and part + 3 or part - 9
    local month_said = string.format("%04d-%02d", year + era * 400 + (month <= 2 and 1 or 0), month)
    days[day] = { month_said, month_said .. string.format("-%02d", of_year - math.floor((153 * part + 2) / 5) + 1) }
  end
  return days[day][1], days[day][2]
end

local function accounts(provider, agent, root, position)
  local month, day = spans(position)
  local by, of = "provider:" .. provider, "agent:" .. agent
  return { { by, "month", month }, { by, "day", day }, { of, "month", month }, { of, "day", day },
           { "task:" .. root, "task", "ever" } }
end

local function sums_of(account, span)
  local committed, held, unpriced = match(get(account .. " " .. span) or "0 0 0", "^(%d+) (%d+) (%d+)$")
  return tonumber(committed), tonumber(held), tonumber(unpriced)
end

local function add(provider, agent, root, position, spent, reserved, calls)
  for _, each in ipairs(accounts(provider, agent, root, position)) do
    local committed, held, unpriced = sums_of(each[1], each[3])
    put(each[1] .. " " .. each[3], number(math.min(committed + spent, MOST)) .. " "
      .. number(math.max(held + reserved, 0)) .. " " .. number(math.min(unpriced + calls, MOST)))
  end
end

local function said_of(plan)
  local at = plan[HEAD][MONEY]
  return at and ARGV[plan[BASE] + at] or ""
end

local function set_hold(name, line)
  put("holds", number(math.max(0, tonumber(get("holds") or 0) + (line and 1 or 0) - (hold_of(name) and 1 or 0))))
  lines[name] = line
end

-- Whether an envelope about its task ends the hold that is open there.
local function ends(plan, line)
  local head = plan[HEAD]
  local event, id, agent = head[EVENT], match(line, "^(%S+) %S+ %S+ (%S+)")
  if event == "parking:parked" then return plan[MOVE].head.agent == agent end
  if head[KIND] == "parking" or event == "budget:warned" then return false end
  if event == "budget:settled" or event == "budget:released" then
    local named = match(said_of(plan), "^e (%S+)")
    return named == id and (event == "budget:released" or head[SENDER] == agent)
  end
  return head[KIND] ~= "status" and head[KIND] ~= "answer" and head[KIND] ~= "verdict"
end

-- Ends the hold that an envelope ends. What it says was spent counts at the position that this answers: where its
-- sender has reserved for the task, as long as that hold is open, else at its own.
local function end_hold(plan, position)
  local name = ARGV[plan[BASE] + 2]
  local line = hold_of(name)
  if not line then return position end
  local amount, provider, agent, root, since = match(line, "^%S+ (%d+) (%S+) (%S+) (%S+) (%S+)")
  if ends(plan, line) then
    add(provider, agent, root, since, 0, -tonumber(amount), 0)
    set_hold(name, false)
  end
  return plan[HEAD][SENDER] == agent and since or position
end

local function spend(plan, position)
  local sender, root = plan[HEAD][SENDER], plan[OF] or ARGV[plan[BASE] + 2]
  for line in string.gmatch(said_of(plan), "[^\n]+") do
    local kind, a, b, c = match(line, "^(%a) (%S+) ?(%S*) ?(%S*)")
    if kind == "s" then
      add(a, sender, root, position, tonumber(b), 0, 0)
    elseif kind == "u" then
      add(a, sender, root, position, 0, 0, 1)
    elseif kind == "k" then
      put("cap " .. a .. " " .. b, c)
    elseif kind == "w" then
      put("warned " .. a .. " " .. b .. " " .. c, "1")
    end
  end
end

local function reservation(plan) return match(said_of(plan), "^r (%S+) (%d+) (%S+) (%S+)") end

local function open_hold(plan, position)
  local id, amount, provider, model = reservation(plan)
  if not id then return end
  local name, sender, by = ARGV[plan[BASE] + 2], plan[HEAD][SENDER], "-"
  local root = plan[OF] or name
  if plan[HEAD][WITH] == "t" then by = ARGV[plan[BASE] + 4] end
  add(provider, sender, root, position, 0, tonumber(amount), 0)
  set_hold(name, table.concat({ id, amount, provider, sender, root, position, by, model }, " "))
end

local function apply(plan, position)
  spend(plan, end_hold(plan, position))
  open_hold(plan, position)
end

-- The time at which the log goes on: its positions never go back, whatever the clock does.
local function log_time()
  local time = seldom().now()
  local info = call("EXISTS", log) == 1 and call("XINFO", "STREAM", log) or {}
  for i = 1, #info, 2 do
    if info[i] == "last-generated-id" then time = math.max(time, tonumber(match(info[i + 1], "^%d+"))) end
  end
  return number(time)
end

-- Counters that are gone, though money was counted: nothing is reserved until they are there again.
local function is_lost() return call("EXISTS", budget) == 0 and call("HEXISTS", meta, "budget") == 1 end

local function cap_of(account, period, said)
  local recorded = get("cap " .. account .. " " .. period)
  if recorded then return recorded ~= "-" and tonumber(recorded) or MOST end
  local wanted = "\nc " .. account .. " " .. period .. " "
  local _, before = find(said, wanted, 1, true)
  return before and tonumber(match(said, "^%d+", before + 1)) or MOST
end

-- Why an envelope is refused that reserves money, or gives it back; nil where it is not.
local function over(base, head, task, move)
  local root, name = match(task[TREE], "^%S+"), ARGV[base + 2]
  local trial = { base, head, task }
  trial[MOVE], trial[OF] = move, root ~= "." and root or false
  local id, amount, provider = reservation(trial)
  if not id and head[EVENT] ~= "budget:released" then return nil end
  local count = call("HGET", budget, "holds")
  if is_lost() or tonumber(count or 0) ~= call("HLEN", holds) then return { "uncounted" } end
  local time = log_time()
  -- What this very call has reserved and spent before counts as well, but for what was taken back of it.
  if applied > 0 and not (plans[applied] and plans[applied][BASE] == newest) then start_over() end
  for i = applied + 1, #plans do
    apply(plans[i], time)
    applied, newest = i, plans[i][BASE]
  end
  if not id then
    local line = hold_of(name)
    if line and ends(trial, line) then return nil end
    return seldom().refused("moved", task)
  end
  spend(trial, end_hold(trial, time))
  local asked, refusal = tonumber(amount), { "budget", amount }
  for _, each in ipairs(accounts(provider, head[SENDER], trial[OF] or name, time)) do
    local account, period, span = unpack(each)
    local committed, held = sums_of(account, span)
    local cap = cap_of(account, period, said_of(trial))
    if asked > 0 and committed + held + asked > cap then
      for _, said in ipairs({ account, period, span, number(cap), number(committed), number(held) }) do
        refusal[#refusal + 1] = said
      end
    end
  end
  if #refusal > 2 then
    start_over()
    return refusal
  end
  open_hold(trial, time)
  applied, newest = #plans + 1, base
end

local function count()
  if is_lost() then return end
  start_over()
  for i = 1, #plans do apply(plans[i], plans[i][POSITION]) end
  local values, ended = {}, {}
  for field in pairs(changed) do
    values[#values + 1] = field
    values[#values + 1] = fields[field]
  end
  if #values == 0 then return end
  for first = 1, #values, 4000 do call("HSET", budget, unpack(values, first, math.min(first + 3999, #values))) end
  for name, line in pairs(lines) do
    if line then call("HSET", holds, name, line) else ended[#ended + 1] = name end
  end
  for first = 1, #ended, 4000 do call("HDEL", holds, unpack(ended, first, math.min(first + 3999, #ended))) end
  call("HSETNX", meta, "budget", "1")
end
