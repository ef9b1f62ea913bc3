-- One worker's report about a type: add up what it did, lease what is free of its share.
-- KEYS  the type's hash: number, limit ('' unlimited), operators, revision, pace (JSON of the plan), since, planning,
--       leased, started, ok, failed, took_ms, lacked, span_ms, allowed (sums since the last plan), then for each
--       worker 'm|<worker>' = '<held> <most> <until>' and 's|<worker>' = '<slots> <rate or empty>'
-- ARGV  worker, in use, most, revision, generation, leaving (1), epoch ms, lease ms, planning ms, idle ms,
--       then the seven sums
-- returns {} when there is no limit, else {slots, rate}, and for who plans: {slots, rate, now, the hash as a list}
local HASH, worker = KEYS[1], ARGV[1]
local in_use, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local revision, generation = tonumber(ARGV[4]), tonumber(ARGV[5])
ensure(HASH, 'hash')
local now = milliseconds()
local plan = redis.call('HMGET', HASH, 'limit', 'revision', 'generation', 'since', 'planning', 'leased')
local limit, leased = tonumber(plan[1] or ''), tonumber(plan[6] or '') or 0

for i, name in ipairs({'started', 'ok', 'failed', 'took_ms', 'lacked', 'span_ms', 'allowed'}) do
  local amount = ARGV[10 + i]
  if amount ~= '0' then redis.call('HINCRBY', HASH, name, amount) end
end
redis.call('PEXPIRE', HASH, ARGV[10])

local mine = redis.call('HMGET', HASH, 'm|' .. worker, 's|' .. worker)
local had = tonumber(string.match(mine[1] or '', '^(%d+) ') or '') or 0
local news = revision > (tonumber(plan[2] or '') or 0) or generation > (tonumber(plan[3] or '') or 0)
if ARGV[6] == '1' or (not limit and not news) then
  if mine[1] then
    redis.call('HDEL', HASH, 'm|' .. worker, 's|' .. worker)
    redis.call('HSET', HASH, 'leased', whole(math.max(leased - had, 0)))
  end
  return {}
end

local slots, rate = string.match(mine[2] or '0 ', '^(%d+) (.*)$')
slots = math.min(tonumber(slots), math.max((limit or 0) - (leased - had), had, 0), most)
local held = math.max(in_use, slots)
redis.call('HSET', HASH, 'm|' .. worker, whole(held) .. ' ' .. whole(most) .. ' ' .. whole(now + ARGV[8]))
redis.call('HSET', HASH, 'leased', whole(leased - had + held))

local due = news or now >= (tonumber(plan[4] or '') or 0) + ARGV[7]
if not due or now < (tonumber(plan[5] or '') or 0) then return {whole(slots), rate} end
redis.call('HSET', HASH, 'planning', whole(now + ARGV[9]))
return {whole(slots), rate, whole(now), redis.call('HGETALL', HASH)}
