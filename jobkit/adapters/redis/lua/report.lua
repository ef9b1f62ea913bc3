-- Add evidence if it belongs to the current generation; return the window.
-- KEYS  record, recent (list), codes (zset), counts (hash), prefix of the zsets of distinct jobs, permits, workers
--       (zset), sources (zset), ejected (zset by end of lease), log (stream). The zsets of jobs end in an error code and so are in
--       the same slot as their prefix.
-- ARGV  generation ('' adds nothing), sample, outcomes kept, window ms, jobs kept, codes kept, code for the others, slices, worker,
--       entry of the log, entries kept, then job id, error code ('' is a success), trace and source of each outcome in order of finishing
-- returns {now, record or '', {recent outcomes, newest first: 'ms code job trace source worker'},
--          {code, how many of the outcomes before them, ...} where anything failed, {code, jobs, attempts,
--          ...}, first failure or '', number of workers, number of sources, {ejected worker, end of its lease, ...}}
local RECENT, CODES, COUNTS, JOBS = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local WORKERS, SOURCES, EJECTED = KEYS[7], KEYS[8], KEYS[9]
local sample, kept, window = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local jobs_kept, codes_kept, other = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local now = milliseconds()
local oldest = now - window
local slice = math.max(math.floor(window / tonumber(ARGV[8])), 1)

local record, value = stored(KEYS[1])
ensure(RECENT, 'list')
ensure(CODES, 'zset')
ensure(COUNTS, 'hash')
for i = 7, 9 do ensure(KEYS[i], 'zset') end
redis.call('ZREMRANGEBYSCORE', CODES, '-inf', whole(oldest))
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', whole(oldest))
redis.call('ZREMRANGEBYSCORE', SOURCES, '-inf', whole(oldest))

local function bounded(code)
  if redis.call('ZSCORE', CODES, code) or redis.call('ZCARD', CODES) < codes_kept then return code end
  return other
end

local function add()
  local failed, worker = {}, ARGV[9]
  for i = 12, #ARGV, 4 do
    local code, who = ARGV[i + 1], ' - - '
    if code ~= '' then
      code = bounded(code)
      if not failed[code] then ensure(JOBS .. code, 'zset') end
      failed[code] = (failed[code] or 0) + 1
      redis.call('ZADD', CODES, whole(now), code)
      redis.call('ZADD', JOBS .. code, whole(now), ARGV[i])
      who = ' ' .. ARGV[i] .. ' ' .. (ARGV[i + 2] ~= '' and ARGV[i + 2] or '-') .. ' '
    end
    redis.call('LPUSH', RECENT, whole(now) .. ' ' .. code .. who .. ARGV[i + 3] .. ' ' .. worker)
    redis.call('ZADD', SOURCES, whole(now), ARGV[i + 3])
  end
  redis.call('ZADD', WORKERS, whole(now), worker)
  redis.call('LTRIM', RECENT, 0, kept - 1)
  -- A minute more than the window: a swap that closes still has to learn which codes there were.
  local ttl = whole(window + 60000)
  for code, attempts in pairs(failed) do
    redis.call('ZREMRANGEBYRANK', JOBS .. code, 0, -(jobs_kept + 1))
    redis.call('PEXPIRE', JOBS .. code, ttl)
    local field = code .. '|' .. whole(now - now % slice)
    local count, first = string.match(redis.call('HGET', COUNTS, field) or '', '^(%d+) (%d+)$')
    redis.call('HSET', COUNTS, field, whole((count or 0) + attempts) .. ' ' .. (first or whole(now)))
  end
  if next(failed) then redis.call('HSET', COUNTS, 'window', ARGV[4]) end
  for _, key in ipairs({RECENT, CODES, COUNTS, WORKERS, SOURCES}) do redis.call('PEXPIRE', key, ttl) end
end

if ARGV[1] ~= '' and tonumber(ARGV[1]) == generation_of(record) then
  if #ARGV > 11 then add() end
  note(KEYS[10], ARGV[10], ARGV[11], now)
end

local jobs = {}
for _, code in ipairs(redis.call('ZRANGE', CODES, 0, -1)) do
  ensure(JOBS .. code, 'zset')
  local distinct = redis.call('ZCOUNT', JOBS .. code, '(' .. whole(oldest), '+inf')
  if distinct > 0 then jobs[code] = distinct end
end

local recent, counts = {}, {}
for i, entry in ipairs(redis.call('LRANGE', RECENT, 0, (next(jobs) and kept or sample) - 1)) do
  -- What an earlier release wrote has no more than a code.
  local at, code = string.match(entry, '^(%d+) ([%w_]*) .*$')
  if at and tonumber(at) <= oldest then break end
  if at and i <= sample then
    recent[#recent + 1] = entry
  elseif at then
    counts[code] = (counts[code] or 0) + 1
  end
end
local before = {}
for code, count in pairs(counts) do
  before[#before + 1] = code
  before[#before + 1] = whole(count)
end

local attempts, first_failure = {}, nil
local fields = redis.call('HGETALL', COUNTS)
for i = 1, #fields, 2 do
  local code, start = string.match(fields[i], '^([%w_]+)|(%d+)$')
  local count, first = string.match(fields[i + 1], '^(%d+) (%d+)$')
  if fields[i] == 'window' then
    -- the only field that is not a slice
  elseif not start or not count or tonumber(start) + slice <= oldest then
    redis.call('HDEL', COUNTS, fields[i])
  elseif jobs[code] then
    attempts[code] = (attempts[code] or 0) + tonumber(count)
    first_failure = math.min(first_failure or now, math.max(tonumber(first), oldest))
  end
end

local codes = {}
for code, distinct in pairs(jobs) do
  codes[#codes + 1] = code
  codes[#codes + 1] = whole(distinct)
  codes[#codes + 1] = whole(attempts[code] or 0)
end
local ejected = redis.call('ZRANGEBYSCORE', EJECTED, '(' .. whole(now), '+inf', 'WITHSCORES')
return {whole(now), value or '', recent, before, codes, first_failure and whole(first_failure) or '',
        redis.call('ZCARD', WORKERS), redis.call('ZCARD', SOURCES), ejected}
