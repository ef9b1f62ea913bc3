-- End a worker's ejection; its part in the recent outcomes is forgotten, so that it starts anew.
-- KEYS  ejected (zset), recent (list: see report.lua), log (stream)
-- ARGV  worker, entry of the log, entries kept
ensure(KEYS[1], 'zset')
ensure(KEYS[2], 'list')
redis.call('ZREM', KEYS[1], ARGV[1])
note(KEYS[3], ARGV[2], ARGV[3], milliseconds())
for _, entry in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  if string.match(entry, '^%d+ [%w_]* [^ ]+ [^ ]+ [^ ]* (.*)$') == ARGV[1] then redis.call('LREM', KEYS[2], 0, entry) end
end
return 1
