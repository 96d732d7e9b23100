-- Pauses, resumes or aborts a batch.
-- KEYS[1] batch  KEYS[2] history   ARGV 'pause' | 'resume' | 'abort', reason of a pause or new stop
-- condition of a resume, links in a full chunk, entry
-- Returns the state, and 1 if this call changed it.
local h = redis.call('HMGET', KEYS[1], 'state', 'canary', 'row', 'total')
local state, canary, row, total = h[1], h[2], h[3], tonumber(h[4] or 0)
if not state then return redis.error_reply('NOBATCH no such batch') end
local open = state == 'ready' or state == 'running' or state == 'paused'
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

-- Makes the links at the given positions of chunk n pending again if they have the given
-- outcome, and returns their positions in the manifest. Only the ambiguous flag is kept.
local function reopen(n, positions, outcome)
  local key = KEYS[1] .. ':r:' .. n
  local old = redis.call('GET', key)
  if not old then return {} end
  table.sort(positions)
  local pieces, at, reopened = {}, 0, {}
  for _, pos in ipairs(positions) do
    local flags = string.byte(old, pos * 8 + 1) or 0
    if flags % 16 == outcome and pos >= at then
      pieces[#pieces + 1] = string.sub(old, at * 8 + 1, pos * 8)
      pieces[#pieces + 1] = string.char(flags % 32 - outcome) .. '\0\0\0\0\0\0\0'
      at = pos + 1
      reopened[#reopened + 1] = n * tonumber(ARGV[3]) + pos
    end
  end
  if #pieces > 0 then redis.call('SETRANGE', key, 0, table.concat(pieces)) end
  return reopened
end

-- Moves the low-water mark back to a position's slice, so that its links are enqueued again.
local function lower(position)
  local size, marks = tonumber(ARGV[3]), redis.call('HMGET', KEYS[1], 'slice', 'low')
  local slice, pos = tonumber(marks[1] or 0), position % size
  local begin = position - pos
  if slice > 0 then begin = begin + pos - pos % slice end
  if begin < tonumber(marks[2] or 0) then redis.call('HSET', KEYS[1], 'low', begin) end
end

-- Reopens the outcomes of the canary's row, once in a batch. Apart from "aborted", which a late
-- answer replaces, only these outcomes change.
local function reopen_row()
  local outcome = tonumber(string.match(row or '', '^%d') or 0)
  local listed = redis.call('GET', KEYS[1] .. ':c') or ''
  local chunks, size = {}, tonumber(ARGV[3])
  for i = 1, #listed - 3, 4 do
    local a, b, c, d = string.byte(listed, i, i + 3)
    local position = ((a * 256 + b) * 256 + c) * 256 + d
    local n = math.floor(position / size)
    chunks[n] = chunks[n] or {}
    table.insert(chunks[n], position % size)
  end
  local lowest, links = nil, 0
  for n, positions in pairs(chunks) do
    for _, position in ipairs(reopen(n, positions, outcome)) do
      redis.call('HDEL', KEYS[1] .. ':e', position)
      lowest = math.min(lowest or position, position)
      links = links + 1
    end
  end
  if links > 0 then
    redis.call('HINCRBY', KEYS[1], outcome_names[outcome], -links)
    redis.call('HDEL', KEYS[1], 'finished')
    lower(lowest)
  end
  return links
end

local function all_have_outcomes()
  local sum = 0
  for _, n in ipairs(redis.call('HMGET', KEYS[1], unpack(outcome_names))) do sum = sum + tonumber(n or 0) end
  return sum == total
end

local entry = cjson.decode(ARGV[4])
if ARGV[1] == 'pause' and open and state ~= 'paused' then
  redis.call('HSET', KEYS[1], 'state', 'paused', 'reason', ARGV[2])
elseif ARGV[1] == 'resume' and state == 'paused' then
  if canary == 'tripped' then entry.detail = reopen_row() .. ' links again' end
  local to = redis.call('HEXISTS', KEYS[1], 'started') == 1 and 'running' or 'ready'
  redis.call('HSET', KEYS[1], 'state', to, 'canary', 'off', 'resumed', now)
  redis.call('HDEL', KEYS[1], 'reason', 'row', 'bad', 'recent')
  redis.call('DEL', KEYS[1] .. ':c')
  if ARGV[2] ~= '' then
    redis.call('HSET', KEYS[1], 'stop', ARGV[2])
    entry.detail = (entry.detail and entry.detail .. ', ' or '') .. 'pause above ' .. ARGV[2]
  end
elseif ARGV[1] == 'abort' and open then
  redis.call('HSET', KEYS[1], 'state', 'aborted')
  redis.call('HDEL', KEYS[1], 'reason')
  -- No outcome will come to finish it if only the canary kept it open.
  if all_have_outcomes() then redis.call('HSETNX', KEYS[1], 'finished', now) end
else
  return {state, 0}
end
redis.call('HSET', KEYS[1], 'history', add_history(KEYS[2], now, entry))
return {redis.call('HGET', KEYS[1], 'state'), 1}
