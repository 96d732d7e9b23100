-- Writes one chunk of an unsealed batch; chunks come in order, and a chunk
-- that was written before is left alone, so that the call may be repeated.
-- KEYS[1] batch  KEYS[2] chunk   ARGV token, n, links, ids
local h = redis.call('HMGET', KEYS[1], 'token', 'written', 'state')
if h[1] ~= ARGV[1] or h[3] ~= 'importing' then return redis.error_reply('TAKEN the import was taken over') end
local n = tonumber(ARGV[2])
if n < tonumber(h[2]) then return 0 end
if n > tonumber(h[2]) then return redis.error_reply('GAP a chunk is missing') end
local t = redis.call('TIME')
redis.call('SET', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'written', n + 1, 'beat', t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('HINCRBY', KEYS[1], 'links', ARGV[3])
return 1
