-- Begins an import, or takes over one whose importer is gone.
-- KEYS[1] batch   ARGV token, busy ms, created ms (0: now), canary, 'v', format, field, value, …
-- Returns 'created', 'busy' (another importer is at work), 'sealed' or 'deleted'
-- (so lately that what was under way may still be written).
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local h = redis.call('HMGET', KEYS[1], 'state', 'beat', 'written', 'v')
if h[1] then
  if h[1] ~= 'importing' then return 'sealed' end
  if (tonumber(h[4] or 0) or 0) > tonumber(ARGV[6]) then return 'busy' end -- of a newer release
  if now - tonumber(h[2]) < tonumber(ARGV[2]) then return 'busy' end
  for n = 0, tonumber(h[3]) do
    redis.call('DEL', KEYS[1] .. ':m:' .. n, KEYS[1] .. ':r:' .. n)
  end
  for _, key in ipairs({'', ':e', ':s', ':k', ':c'}) do redis.call('DEL', KEYS[1] .. key) end
end
if redis.call('EXISTS', KEYS[1] .. ':gone') == 1 then return 'deleted' end
local created = tonumber(ARGV[3])
if created == 0 then created = now end
redis.call('HSET', KEYS[1], 'state', 'importing', 'token', ARGV[1], 'beat', now,
  'created', string.format('%.0f', created), 'canary', ARGV[4], 'written', 0, 'links', 0)
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], 172800) -- until it is sealed
return 'created'
