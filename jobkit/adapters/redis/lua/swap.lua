-- Replace the record if nobody did so before; a CLOSED one forgets all evidence.
-- KEYS  as report.lua
-- ARGV  generation that is expected ('' = only where there is no record), the new record, entry of the log, entries kept
-- returns {1 or 0, {codes whose evidence was forgotten}}
local old = stored(KEYS[1])
local new = cjson.decode(ARGV[2])
local current = generation_of(old)

if ARGV[1] == '' then
  if old then return {0, {}} end
else
  local successes = old and tonumber(old.successes) or 0
  local grown = new.generation > current or (new.generation == current and new.successes > successes)
  if tonumber(ARGV[1]) ~= current or not grown then return {0, {}} end
end

redis.call('SET', KEYS[1], ARGV[2])
note(KEYS[10], ARGV[3], ARGV[4], milliseconds())
if new.generation ~= current then redis.call('DEL', KEYS[6]) end
if new.state ~= 'CLOSED' then return {1, {}} end
ensure(KEYS[3], 'zset')
local codes = redis.call('ZRANGE', KEYS[3], 0, -1)
for _, code in ipairs(codes) do redis.call('DEL', KEYS[5] .. code) end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[7], KEYS[8])
return {1, codes}
