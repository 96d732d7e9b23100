-- Writes a worker's heartbeat, stamped with Redis' time.
-- KEYS[1] workers   ARGV id, document
local t = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)) .. ' ' .. ARGV[2])
return 1
