-- Takes or renews the feeder's lease.
-- KEYS[1] lease   ARGV token, ms. Returns 2 if it was taken, 1 if renewed, 0 if another has it.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return owner and 1 or 2
