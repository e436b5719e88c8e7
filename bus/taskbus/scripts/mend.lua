-- Puts work back into an inbox whose stream was deleted: tasks that are to be worked on, and whose delivery is nowhere.
--
-- KEYS  1 index   2 meta   3 held   4 leases   5... the inbox, one stream for each priority
-- ARGV  1 agent, then the priorities, then for each task: name, its record as it was read, position of what is delivered
-- Reply the names of the tasks whose work was put back

--[[TASK]]
--[[GROUP]]
local call, match = redis.call, string.match
local index, meta, held, leases = unpack(KEYS, 1, 4)
local agent, mended, inboxes = ARGV[1], {}, {}
for i = 5, #KEYS do inboxes[ARGV[i - 3]] = KEYS[i] end

for i = #KEYS - 2, #ARGV, 3 do
  local name, line, position = unpack(ARGV, i, i + 2)
  local task = read_task(name, line)
  local priority, entry = match(task[DELIVERY], "^(%a+)/(.+)$")
  if call("HGET", index, "task:" .. name) == line and call("HEXISTS", held, task[DELIVERY]) == 0
    and #call("XRANGE", inboxes[priority], entry, entry) == 0 then
    call("ZREM", leases, task[DELIVERY])
    task[DELIVERY] = priority .. "/" .. call("XADD", inboxes[priority], "*", "at", position)
    task[TOKEN], task[LEASE], task[CONSUMER] = mint(meta, #ARGV), "0", "-"
    call("HSET", index, "task:" .. name, record_of(task))
    mended[#mended + 1] = name
  end
end
for priority, inbox in pairs(inboxes) do
  local mark = "read:" .. agent .. ":" .. priority
  if call("HEXISTS", meta, mark) == 1 then
    if call("EXISTS", inbox) == 1 then
      -- Its group may be gone as well, or not be there yet.
      if redis.pcall("XPENDING", inbox, agent).err then create_group(inbox, agent, priority, leases) end
      call("HSET", meta, mark, "read")
    else
      call("HDEL", meta, mark)
    end
  end
end
return mended
