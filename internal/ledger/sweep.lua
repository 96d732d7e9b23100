-- Scheduled sweeps of the fleet: one at a time, and each scheduled time once.
-- KEYS[1] sweep  KEYS[2] history   ARGV verb, token of the worker, …
-- begin: due ms, validity of a heartbeat ms, timeout of another run ms, format
--   Returns 'begun', now, and the due time of another run that was given up (or 0); or
--   'busy', 'ended', 'outdated' (a later one has begun) or 'newer'.
-- beat: validity ms
-- claim: present batch id ('' for none), new batch id
--   Returns the batch id after the call.
-- note: counts
-- wait: delay ms, 1 if an attempt failed, reason
-- end: 1 if it was successful, error text, entry
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'due', 'state', 'token', 'alive', 'v')
local due, state, alive = tonumber(h[1] or 0), h[2], tonumber(h[4] or 0)
local fields = {'due', 'state', 'token', 'alive', 'started', 'ended', 'ok', 'batch', 'counts', 'failures', 'crashes', 'error'}

if ARGV[1] == 'begin' then
  local asked = tonumber(ARGV[3])
  if tonumber(h[5] or 0) > tonumber(ARGV[6]) then return {'newer'} end
  if due > asked then return {'outdated'} end
  if due == asked then
    if state == 'ended' then return {'ended'} end
    if state == 'running' and h[3] ~= ARGV[2] then
      if now < alive then return {'busy'} end
      redis.call('HINCRBY', KEYS[1], 'crashes', 1)
    end
    redis.call('HSET', KEYS[1], 'state', 'running', 'token', ARGV[2], 'alive', now + tonumber(ARGV[4]))
    return {'begun', now, 0}
  end
  local lost = 0
  if due > 0 and state ~= 'ended' then
    -- A failed one is replaced at once: the later one does its work.
    if state ~= 'failed' then
      if now < alive + tonumber(ARGV[5]) then return {'busy'} end
      redis.call('HSET', KEYS[1], 'error', 'no worker went on with it')
    end
    redis.call('HSET', KEYS[1], 'ended', now, 'ok', 0)
    lost = due
  end
  if due > 0 then
    local last = {}
    for _, name in ipairs(fields) do
      local value = redis.call('HGET', KEYS[1], name)
      if value then last[name] = value end
    end
    redis.call('HSET', KEYS[1], 'last', cjson.encode(last))
  end
  redis.call('HDEL', KEYS[1], unpack(fields))
  redis.call('HSET', KEYS[1], 'v', ARGV[6], 'due', ARGV[3], 'state', 'running', 'token', ARGV[2],
    'alive', now + tonumber(ARGV[4]), 'started', now)
  return {'begun', now, lost}
end

if h[3] ~= ARGV[2] then return redis.error_reply('LOST another worker runs the sweep') end
if state ~= 'running' then return '' end -- the call is repeated
if ARGV[1] == 'beat' then
  redis.call('HSET', KEYS[1], 'alive', now + tonumber(ARGV[3]))
elseif ARGV[1] == 'claim' then
  local standing = redis.call('HGET', KEYS[1], 'batch') or ''
  if standing ~= ARGV[3] then return standing end
  redis.call('HSET', KEYS[1], 'batch', ARGV[4])
  return ARGV[4]
elseif ARGV[1] == 'note' then
  redis.call('HSET', KEYS[1], 'counts', ARGV[3])
elseif ARGV[1] == 'wait' then
  redis.call('HSET', KEYS[1], 'state', 'waiting', 'alive', now + tonumber(ARGV[3]), 'error', ARGV[5])
  if ARGV[4] == '1' then
    redis.call('HSET', KEYS[1], 'state', 'failed')
    redis.call('HINCRBY', KEYS[1], 'failures', 1)
  end
elseif ARGV[1] == 'end' then
  redis.call('HSET', KEYS[1], 'state', 'ended', 'ended', now, 'ok', ARGV[3], 'error', ARGV[4])
  if ARGV[3] == '1' then redis.call('HSET', KEYS[1], 'succeeded', now) end
  add_history(KEYS[2], now, cjson.decode(ARGV[5]))
end
return ''
