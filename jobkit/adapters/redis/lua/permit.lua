-- Take or return a leased permit of the current generation: to probe (a swap to another generation deletes those), or
-- to be ejected (those stay).
-- KEYS  record, permits (zset of holders by the end of their lease)
-- ARGV  generation, holder, how many permits there are (0 returns the holder's), lease ms
-- returns 1 when the permit was taken (or had been by this holder: its lease begins again), else 0
local PERMITS, holder, permits = KEYS[2], ARGV[2], tonumber(ARGV[3])
if tonumber(ARGV[1]) ~= generation_of(stored(KEYS[1])) then return 0 end
ensure(PERMITS, 'zset')
if permits == 0 then
  redis.call('ZREM', PERMITS, holder)
  return 0
end

local now, lease = milliseconds(), tonumber(ARGV[4])
redis.call('ZREMRANGEBYSCORE', PERMITS, '-inf', whole(now))
if not redis.call('ZSCORE', PERMITS, holder) and redis.call('ZCARD', PERMITS) >= permits then return 0 end
redis.call('ZADD', PERMITS, whole(now + lease), holder)
redis.call('PEXPIRE', PERMITS, whole(math.max(redis.call('PTTL', PERMITS), lease)))
return 1
