-- Finds or makes the index of a link status in the batch's small table.
-- KEYS[1] table   ARGV status, largest index. Returns the index; the largest means "other".
local i = redis.call('HGET', KEYS[1], ARGV[1])
if i then return tonumber(i) end
local n = redis.call('HLEN', KEYS[1]) + 1
if n >= tonumber(ARGV[2]) then return tonumber(ARGV[2]) end
redis.call('HSET', KEYS[1], ARGV[1], n)
return n
