-- Adds an entry to a history and returns its number. now is in ms. entry is a table with action,
-- actor, reason, auto, detail and token; all but action and actor may be missing. go-redis repeats
-- a call without a reply: an entry with the token of an earlier one is not added again.
local function add_history(key, now, entry)
  local newest = redis.call('ZREVRANGE', key, 0, 19)
  for _, earlier in ipairs(newest) do
    if entry.token and string.find(earlier, '"token":"' .. entry.token .. '"', 1, true) then
      return tonumber(string.match(earlier, '^%d+'))
    end
  end
  local number = tonumber(string.match(newest[1] or '0', '^%d+')) + 1
  redis.call('ZADD', key, number, string.format('%.0f %.0f ', number, now) .. cjson.encode(entry))
  local old = redis.call('ZRANGE', key, 0, -1001)
  if #old > 0 then redis.call('ZREM', key, unpack(old)) end
  return number
end
