-- Begins or goes on feeding a batch; fixes the slice size at the first time.
-- KEYS[1] batch   ARGV epoch, slice size
-- Returns state, slice size, cursor, low-water mark; or nothing for a leader
-- that was replaced.
local h = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if not h[1] or h[1] == 'importing' then return redis.error_reply('NOBATCH no such sealed batch') end
if tonumber(h[2]) > tonumber(ARGV[1]) then return {} end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
redis.call('HSETNX', KEYS[1], 'slice', ARGV[2])
-- Its command may have paused the batch since the leader looked: it is begun all
-- the same, so that it runs when it is resumed.
if h[1] == 'ready' or h[1] == 'paused' then
  local t = redis.call('TIME')
  redis.call('HSETNX', KEYS[1], 'started', t[1] * 1000 + math.floor(t[2] / 1000))
end
if h[1] == 'ready' then redis.call('HSET', KEYS[1], 'state', 'running') end
return redis.call('HMGET', KEYS[1], 'state', 'slice', 'cursor', 'low')
