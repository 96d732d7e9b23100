-- Writes what is known from before of the links of one chunk of an unsealed
-- batch. May be repeated.
-- KEYS[1] batch  KEYS[2] records  KEYS[3] error texts   ARGV token, records, place, text, …
local h = redis.call('HMGET', KEYS[1], 'token', 'state')
if h[1] ~= ARGV[1] or h[2] ~= 'importing' then return redis.error_reply('TAKEN the import was taken over') end
local t = redis.call('TIME')
redis.call('SET', KEYS[2], ARGV[2])
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'beat', t[1] * 1000 + math.floor(t[2] / 1000))
return 1
