-- Changes the state of a batch by command.
-- KEYS[1] batch   ARGV 'pause' | 'resume' | 'abort', reason
-- Returns the state that stands now, and 1 if this call changed it.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return redis.error_reply('NOBATCH no such batch') end
local open = state == 'ready' or state == 'running' or state == 'paused'
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[1] == 'pause' and open and state ~= 'paused' then
  redis.call('HSET', KEYS[1], 'state', 'paused', 'reason', ARGV[2])
elseif ARGV[1] == 'resume' and state == 'paused' then
  local to = redis.call('HEXISTS', KEYS[1], 'started') == 1 and 'running' or 'ready'
  redis.call('HSET', KEYS[1], 'state', to, 'canary', 'off', 'resumed', now)
  redis.call('HDEL', KEYS[1], 'reason')
elseif ARGV[1] == 'abort' and open then
  redis.call('HSET', KEYS[1], 'state', 'aborted')
  redis.call('HDEL', KEYS[1], 'reason')
else
  return {state, 0}
end
return {redis.call('HGET', KEYS[1], 'state'), 1}
