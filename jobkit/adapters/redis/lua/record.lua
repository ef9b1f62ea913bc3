-- Prepended to every script of ours.
-- Anything may lie under a record's key; what codec.py would not take for a record counts as absent here too,
-- so that a corrupt breaker can be created anew.
local STATES = {CLOSED = true, OPEN = true, HALF_OPEN = true}

local function stored(key)
  local value = redis.pcall('GET', key)
  if type(value) ~= 'string' then return nil end
  local decoded, record = pcall(cjson.decode, value)
  if not decoded or type(record) ~= 'table' or not STATES[record.state] then return nil end
  local generation = record.generation
  if type(generation) ~= 'number' or generation < 0 or generation % 1 ~= 0 then return nil end
  return record, value
end

local function generation_of(record)
  return record and record.generation or 0
end

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Lua writes large numbers as 1.7e+12.
local function whole(number)
  return string.format('%.0f', number)
end

-- A key of a foreign type would fail the script for good.
local function ensure(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
end

-- The id of the entry that was written last, whether or not it is still there.
local function last_id(key)
  local info = redis.pcall('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
  return '0-0'
end

-- One entry of the attempt log, at the very millisecond that the decisions of it will know; nobody reads it here.
-- 'p' is the entry before it, so that a gap shows.
local function note(key, entry, kept, now)
  if entry == '' then return end
  ensure(key, 'stream')
  redis.call('XADD', key, 'MAXLEN', '~', kept, '*', 't', whole(now), 'p', last_id(key), 'e', entry)
  redis.call('PEXPIRE', key, 86400000)
end
