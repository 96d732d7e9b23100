-- Moves the cursor and the low-water mark forward.
-- KEYS[1] batch   ARGV epoch, cursor, low-water mark, when the batch was resumed
-- Returns 1, or 0 for a leader that was replaced.
local h = redis.call('HMGET', KEYS[1], 'epoch', 'cursor', 'low', 'resumed')
if not h[1] then return redis.error_reply('NOBATCH no such sealed batch') end
if tonumber(h[1]) > tonumber(ARGV[1]) then return 0 end
if tonumber(ARGV[2]) > tonumber(h[2]) then redis.call('HSET', KEYS[1], 'cursor', ARGV[2]) end
-- A resume puts links back that had an outcome when the leader looked.
local seen = tonumber(h[4] or 0) == tonumber(ARGV[4])
if seen and tonumber(ARGV[3]) > tonumber(h[3]) then redis.call('HSET', KEYS[1], 'low', ARGV[3]) end
return 1
