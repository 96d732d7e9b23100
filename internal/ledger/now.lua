-- The time of the server that has this key, in µs.
-- KEYS[1] any key
local t = redis.call('TIME')
return t[1] * 1000000 + t[2]
