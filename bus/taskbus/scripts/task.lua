-- The record of a task: one line of fourteen words in the index, under `task:<id>`, "-" for what is empty. Beside the
-- envelopes' IDs it is read and written with them in one command, which is what an append spends its time on.
-- Numbers stay as the words they are until somebody counts with them. The root is "." where the task is its own.
-- Of a task that has ended for good, only what refuses its late messages is kept.

local clock
local function now()
  if not clock then
    local t = redis.call("TIME")
    clock = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return clock
end

local function number(value) return string.format("%.0f", value) end

-- Fencing tokens: greater than each one before, also than those that a restored or truncated log has forgotten. So
-- many as the call can need are put aside at once.
local newest
local function mint(meta, most)
  if not newest then
    newest = math.max(tonumber(redis.call("HGET", meta, "token") or 0), now() - 1)
    redis.call("HSET", meta, "token", number(newest + most))
  end
  newest = newest + 1
  return number(newest)
end

-- Sixteen fields: one more would double the table, and an append of a new task cost half as much again.
local function read_task(name, line)
  local task = { name = name, state = "", delegator = "", assignee = "", coordinator = "", attempt = "0", review = "1",
                 token = "0", lease = "0", root = "", delivery = "-", consumer = "-", parent = "-", deadline = "-",
                 cause = "-", last = false }
  if line then
    task.state, task.delegator, task.assignee, task.coordinator, task.attempt, task.review, task.token, task.lease,
      task.root, task.delivery, task.consumer, task.parent, task.deadline, task.cause = string.match(line,
      "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$")
    if task.root == "." then task.root = name end
  end
  return task
end

local function record_of(task)
  -- Made in this very call, the delivery stands in the plan that made it.
  local delivery = type(task.delivery) == "table" and task.delivery.delivery or task.delivery
  local root, cause = task.root == task.name and "." or task.root, task.cause
  if string.find("--[[ENDED]]", "|" .. task.state .. "|", 1, true) then cause = "-" end
  return task.state .. " " .. task.delegator .. " " .. task.assignee .. " " .. task.coordinator .. " "
    .. task.attempt .. " " .. task.review .. " " .. task.token .. " " .. task.lease .. " " .. root .. " "
    .. delivery .. " " .. task.consumer .. " " .. task.parent .. " " .. task.deadline .. " " .. cause
end
