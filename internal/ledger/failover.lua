-- Failover handling, shared by the scripts that follow. See failover.go.

-- Returns this server's replication ID, '' if it was never promoted, and nil if unknown.
local replication_id_known, known_replication_id = false, nil
local function replication_id()
  if replication_id_known then return known_replication_id end
  replication_id_known = true
  local info = redis.pcall('INFO', 'replication')
  local offset = type(info) == 'string' and string.match(info, 'second_repl_offset:(%-?%d+)')
  if offset then
    known_replication_id = offset == '-1' and '' or string.match(info, 'master_replid:(%x+)') or nil
  end
  return known_replication_id
end

-- Returns the end of the suspect range of a batch: the position in the manifest before which links
-- without an outcome may have been sent. Also returns 1 if this call was the first to see a
-- failover. ahead is how far past the stored cursor links may have been sent before the failover.
local function suspect_end(batch, ahead)
  local h = redis.call('HMGET', batch, 'state', 'line', 'doubt', 'cursor')
  local id, suspect = replication_id(), tonumber(h[3] or 0)
  if not h[1] or h[1] == 'importing' or not id or id == (h[2] or '') then return suspect, 0 end
  suspect = math.max(suspect, tonumber(h[4] or 0) + ahead)
  redis.call('HSET', batch, 'line', id, 'doubt', suspect)
  return suspect, 1
end
