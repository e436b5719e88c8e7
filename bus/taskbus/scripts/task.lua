-- The record of a task: one line of fourteen words in the index, under `task:<id>`, "-" for what is empty. Beside the
-- envelopes' IDs it is read and written with them in one command, which is what an append spends its time on.
-- Numbers stay as the words they are until somebody counts with them.

local clock
local function now()
  if not clock then
    local t = redis.call("TIME")
    clock = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return clock
end

-- A fencing token: greater than each one before, also than those that a restored or truncated log has forgotten.
local function mint(meta)
  local token = redis.call("HINCRBY", meta, "token", 1)
  if token < now() then
    token = now()
    redis.call("HSET", meta, "token", string.format("%.0f", token))
  end
  return string.format("%.0f", token)
end

local function read_task(name, line)
  local task = { name = name, state = "", delegator = "", assignee = "", coordinator = "", attempt = "0", review = "1",
                 token = "0", lease = "0", root = "", delivery = "-", consumer = "-", parent = "-", deadline = "-",
                 cause = "-", last = false }
  if line then
    task.state, task.delegator, task.assignee, task.coordinator, task.attempt, task.review, task.token, task.lease,
      task.root, task.delivery, task.consumer, task.parent, task.deadline, task.cause = string.match(line,
      "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$")
  end
  return task
end

local function record_of(task)
  -- Made in this very call, the delivery stands in the plan that made it.
  local delivery = type(task.delivery) == "table" and task.delivery.delivery or task.delivery
  return task.state .. " " .. task.delegator .. " " .. task.assignee .. " " .. task.coordinator .. " "
    .. task.attempt .. " " .. task.review .. " " .. task.token .. " " .. task.lease .. " " .. task.root .. " "
    .. delivery .. " " .. task.consumer .. " " .. task.parent .. " " .. task.deadline .. " "
    .. task.cause
end

