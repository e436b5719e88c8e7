-- The record of a task: one line of words in the index, under `task:<id>`, "-" for what is empty. Beside the
-- envelopes' IDs it is read and written with them in one command, which is what an append spends its time on.
-- Numbers stay as the words they are until somebody counts with them. Of a task that has ended for good, only what
-- refuses its late messages is kept: it has no cause.
--
-- A script holds it as a list, since a table with a name for each word takes four times as long to make; the names in
-- brackets are places in it, which the loader fills in. Two groups of words that few messages look at stay together:
-- TREE are root, "." where it is the task itself, parent and deadline; PEOPLE are delegator, coordinator and attempt.
-- LAST is for what changed the task last in this very call.
-- Places: KEY LAST STATE ASSIGNEE TOKEN DELIVERY REVIEW LEASE CONSUMER CAUSE TREE PEOPLE
local function read_task(key, line)
  if not line then return { key, false, "", "", "0", "-", "1", "0", "-", "-", ". - -", "- - 0" } end
  return { key, false, string.match(line,
    "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+ %S+ %S+) (.+)$") }
end

local function record_of(task) return table.concat(task, " ", 3, 12) end
