-- Remembers how often a slice was enqueued after crashes, as long as its batch
-- is kept.
-- KEYS[1] batch  KEYS[2] repairs   ARGV slice, times
-- Returns 1, or 0 for a batch that is gone.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local left = redis.call('PTTL', KEYS[1])
if left > 0 then redis.call('PEXPIRE', KEYS[2], left) end
return 1
