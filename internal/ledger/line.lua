-- What Redis forgets at a failover: the scripts that follow use it.

-- Names the line of history that this server goes on with. A replica that
-- succeeds its master begins a new one, and may lack what that wrote last. '' is
-- the line of a server that never succeeded another, nil none that can be told.
local asked, name = false, nil
local function line()
  if asked then return name end
  asked = true
  local info = redis.pcall('INFO', 'replication')
  local offset = type(info) == 'string' and string.match(info, 'second_repl_offset:(%-?%d+)')
  if offset then name = offset == '-1' and '' or string.match(info, 'master_replid:(%x+)') or nil end
  return name
end

-- Returns the place in the manifest before which a link without an outcome may
-- have been sent, though nothing says so, and 1 if that is news. ahead is how far
-- behind the cursor of a batch its links may have been sent when Redis forgot.
local function doubt(batch, ahead)
  local h = redis.call('HMGET', batch, 'state', 'line', 'doubt', 'cursor')
  local now, place = line(), tonumber(h[3] or 0)
  if not h[1] or h[1] == 'importing' or not now or now == (h[2] or '') then return place, 0 end
  place = math.max(place, tonumber(h[4] or 0) + ahead)
  redis.call('HSET', batch, 'line', now, 'doubt', place)
  return place, 1
end
