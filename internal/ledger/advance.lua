-- Moves the cursor and the low-water mark forward.
-- KEYS[1] batch   ARGV epoch, cursor, low-water mark
-- Returns 1, or 0 for a leader that was replaced.
local h = redis.call('HMGET', KEYS[1], 'epoch', 'cursor', 'low')
if not h[1] then return redis.error_reply('NOBATCH no such sealed batch') end
if tonumber(h[1]) > tonumber(ARGV[1]) then return 0 end
if tonumber(ARGV[2]) > tonumber(h[2]) then redis.call('HSET', KEYS[1], 'cursor', ARGV[2]) end
if tonumber(ARGV[3]) > tonumber(h[3]) then redis.call('HSET', KEYS[1], 'low', ARGV[3]) end
return 1
