-- The API that the whole fleet works on.
-- KEYS[1] api   ARGV verb, URL, …
-- claim: the URL that it may take the place of ('' for none), for how long a claim
--   keeps others out, ms
-- set: when the one before was claimed last, ms ('' for never): not if it has been
--   claimed since
-- prove: it has shown that it is the right one
-- Returns the URL that stands now.
local h = redis.call('HMGET', KEYS[1], 'url', 'claimed', 'proved')
local url, wanted = h[1], ARGV[2]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[1] == 'claim' and url and url ~= wanted and
  (url ~= ARGV[3] or now - tonumber(h[2] or 0) < tonumber(ARGV[4])) then return url end
if ARGV[1] == 'set' and url and (h[2] or '') ~= ARGV[3] then return url end
if ARGV[1] == 'prove' and url and (url ~= wanted or h[3]) then return url end
if url ~= wanted then
  redis.call('HSET', KEYS[1], 'url', wanted, 'since', now)
  redis.call('HDEL', KEYS[1], 'proved') -- of the one before
end
if ARGV[1] == 'prove' then
  redis.call('HSETNX', KEYS[1], 'proved', now)
else
  redis.call('HSET', KEYS[1], 'claimed', now)
end
return wanted
