-- Settle one worker's account with the retry budget of a type: domain/budget.py says what and why, and a contract test
-- that both say the same.
-- KEYS  the budget's hash: balance, at, income
-- ARGV  first attempts, retries owed, block wanted, share, retries a second, most, deepest, idle ms
-- returns {block, debt, income}
ensure(KEYS[1], 'hash')
local firsts, owed, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local share, per_second, most, deepest = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now = milliseconds()
local kept = redis.call('HMGET', KEYS[1], 'balance', 'at', 'income')
local balance, at, income = tonumber(kept[1] or '') or most, tonumber(kept[2] or '') or 0, tonumber(kept[3] or '') or 0
local elapsed = at > 0 and math.max(now - at, 0) / 1000 or 0
income = income * math.max(1 - elapsed / 10, 0) + share * firsts / 10
balance = math.min(balance + share * firsts + per_second * elapsed, math.max(most, most * income)) - owed
local block = math.min(wanted, math.max(math.floor(balance), 0))
balance = math.max(balance - block, -deepest)
redis.call('HSET', KEYS[1], 'balance', string.format('%.6f', balance), 'at', whole(now),
  'income', string.format('%.6f', income))
redis.call('PEXPIRE', KEYS[1], ARGV[8])
return {whole(block), string.format('%.6f', math.max(-balance, 0)), string.format('%.6f', per_second + income)}
