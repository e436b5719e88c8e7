-- The newest ID that a stream ever had: where to wait for more.
local function ending(stream)
  if redis.call("EXISTS", stream) == 0 then return "0-0" end
  local info = redis.call("XINFO", "STREAM", stream)
  for i = 1, #info, 2 do
    if info[i] == "last-generated-id" then return info[i + 1] end
  end
  return "0-0"
end

-- Deliveries of one task that are set aside, one line of words each, the oldest envelope first:
-- position priority tries reason since work(1|0) delivery
local function order(line)
  local ms, sequence = string.match(line, "^(%d+)%-(%d+)")
  return tonumber(ms), tonumber(sequence)
end

local function set_aside(parked, name, line)
  local lines = {}
  for each in string.gmatch(redis.call("HGET", parked, name) or "", "[^\n]+") do lines[#lines + 1] = each end
  lines[#lines + 1] = line
  table.sort(lines, function(a, b)
    local ams, asequence = order(a)
    local bms, bsequence = order(b)
    if ams ~= bms then return ams < bms end
    return asequence < bsequence
  end)
  redis.call("HSET", parked, name, table.concat(lines, "\n"))
end
