-- The record of a task: one line of fourteen words in the index, under `task:<id>`, "-" for what is empty. Beside the
-- envelopes' IDs it is read and written with them in one command, which is what an append spends its time on.
-- Numbers stay as the words they are until somebody counts with them.

local function read_task(name, line)
  local task = { name = name, state = "", delegator = "", assignee = "", coordinator = "", attempt = "0", review = "1",
                 token = "0", lease = "0", root = "", delivery = "-", consumer = "-", parent = "-", deadline = "-",
                 cause = "-", delivered = false, last = false }
  if line then
    task.state, task.delegator, task.assignee, task.coordinator, task.attempt, task.review, task.token, task.lease,
      task.root, task.delivery, task.consumer, task.parent, task.deadline, task.cause = string.match(line,
      "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$")
    task.delivered = task.delivery ~= "-"
  end
  return task
end

local function record_of(task)
  return task.state .. " " .. task.delegator .. " " .. task.assignee .. " " .. task.coordinator .. " "
    .. task.attempt .. " " .. task.review .. " " .. task.token .. " " .. task.lease .. " " .. task.root .. " "
    .. task.delivery .. " " .. task.consumer .. " " .. task.parent .. " " .. task.deadline .. " "
    .. task.cause
end

