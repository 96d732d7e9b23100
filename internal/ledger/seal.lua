-- Seals a batch: from here on it is to be cancelled. May be repeated.
-- KEYS[1] batch   ARGV token, total, chunks, digest, duplicates, invalid, cancelled, …, aborted
local h = redis.call('HMGET', KEYS[1], 'state', 'token', 'written', 'links', 'digest')
if not h[1] then return redis.error_reply('TAKEN the batch is gone') end
if h[1] ~= 'importing' then
  if h[5] == ARGV[4] then return h[1] end
  return redis.error_reply('TAKEN the import was taken over')
end
if h[2] ~= ARGV[1] then return redis.error_reply('TAKEN the import was taken over') end
if h[3] ~= ARGV[3] or h[4] ~= ARGV[2] then return redis.error_reply('GAP the manifest is not whole') end
local state, sum = 'ready', 0
local names = {'cancelled', 'already_cancelled', 'not_found', 'not_cancellable', 'rejected', 'failed', 'aborted'}
for i, name in ipairs(names) do
  redis.call('HSET', KEYS[1], name, ARGV[6 + i])
  sum = sum + tonumber(ARGV[6 + i])
end
if sum == tonumber(ARGV[2]) then
  local t = redis.call('TIME')
  state = 'done'
  redis.call('HSET', KEYS[1], 'finished', t[1] * 1000 + math.floor(t[2] / 1000))
end
redis.call('HSET', KEYS[1], 'state', state, 'total', ARGV[2], 'chunks', ARGV[3], 'digest', ARGV[4],
  'duplicates', ARGV[5], 'invalid', ARGV[6], 'cursor', 0, 'low', 0, 'epoch', 0, 'line', line() or '')
redis.call('PERSIST', KEYS[1])
redis.call('HDEL', KEYS[1], 'token', 'beat', 'written', 'links')
return state
