-- Put a plan in force, unless somebody was faster. Who is silent for a whole lease is forgotten here, and so what it held.
-- KEYS  the type's hash (lease.lua)
-- ARGV  number of the plan that it was made of, then number, limit, operators, revision, generation, pace, the seven
--       sums that are accounted for, then worker and share of each
-- returns 1, or 0 when another plan is in force
local HASH = KEYS[1]
ensure(HASH, 'hash')
if (redis.call('HGET', HASH, 'number') or '0') ~= ARGV[1] then return 0 end
local now = milliseconds()
redis.call('HSET', HASH, 'number', ARGV[2], 'limit', ARGV[3], 'operators', ARGV[4], 'revision', ARGV[5],
  'generation', ARGV[6], 'pace', ARGV[7], 'since', whole(now), 'planning', '0')
for i, name in ipairs({'started', 'ok', 'failed', 'took_ms', 'lacked', 'span_ms', 'allowed'}) do
  if ARGV[7 + i] ~= '0' then redis.call('HINCRBY', HASH, name, '-' .. ARGV[7 + i]) end
end

local leased, fields = 0, redis.call('HGETALL', HASH)
for i = 1, #fields, 2 do
  local kind, worker = string.match(fields[i], '^([ms])|(.*)$')
  if kind == 's' then
    redis.call('HDEL', HASH, fields[i])
  elseif kind == 'm' then
    local held, _, till = string.match(fields[i + 1], '^(%d+) (%d+) (%d+)$')
    if ARGV[3] ~= '' and till and tonumber(till) > now then
      leased = leased + tonumber(held)
    else
      redis.call('HDEL', HASH, fields[i])
    end
  end
end
redis.call('HSET', HASH, 'leased', whole(leased))
for i = 15, #ARGV, 2 do redis.call('HSET', HASH, 's|' .. ARGV[i], ARGV[i + 1]) end
return 1
