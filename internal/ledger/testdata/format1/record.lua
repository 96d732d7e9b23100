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
-- Writes what became of links of one chunk: outcomes, and notes about links
-- that have none yet. Every link gets one outcome, whoever repeats the call.
-- KEYS[1] batch  KEYS[2] records  KEYS[3] error texts  KEYS[4] link statuses
-- ARGV[1] first link of the chunk  ARGV[2] links a full chunk  ARGV[3] texts kept at most
-- ARGV[4] index of a link status that finds no place in the table: "other"
-- ARGV[5] entries of 6 bytes: position in the chunk (2), head of a record (4);
--         outcome 0 is a note. ARGV[6] how far behind its cursor the batch may have
--         been sent. ARGV[7] format. ARGV[8…] entry (from 1), error text, link status, …
-- Returns the state, the links still pending, and a byte an entry: the outcome
-- that stands, plus 16 if this call wrote it.
local byte, char, sub, floor = string.byte, string.char, string.sub, math.floor
local names = {'cancelled', 'already_cancelled', 'not_found', 'not_cancellable', 'rejected', 'failed', 'aborted', 'v'}
local h = redis.call('HMGET', KEYS[1], 'state', 'total', 'created', 'canary', unpack(names))
local state = h[1]
if not state or state == 'importing' then return redis.error_reply('NOBATCH no such sealed batch') end
if h[12] ~= ARGV[7] then return redis.error_reply('NEWER the batch has another format') end
local first, entries = tonumber(ARGV[1]), ARGV[5]
local count, total = #entries / 6, tonumber(h[2])
local counts, change = {}, {}
for i = 1, 7 do counts[i] = tonumber(h[4 + i]); change[i] = 0 end
local texts, statuses = {}, {}
for i = 8, #ARGV, 3 do
  local entry = tonumber(ARGV[i])
  if ARGV[i + 1] ~= '' then texts[entry] = ARGV[i + 1] end
  if ARGV[i + 2] ~= '' then statuses[entry] = ARGV[i + 2] end
end

-- The index of a link status in the batch's small table.
local function index(status)
  local i = redis.call('HGET', KEYS[4], status)
  if i then return tonumber(i) end
  local n = redis.call('HLEN', KEYS[4]) + 1
  if n >= tonumber(ARGV[4]) then return tonumber(ARGV[4]) end
  redis.call('HSET', KEYS[4], status, n)
  return n
end

local t = redis.call('TIME')
local now = t[1] * 1000 + floor(t[2] / 1000)
local after = math.max(0, math.min(4294967295, floor((now - tonumber(h[3])) / 1000)))
local stamp = char(floor(after / 16777216), floor(after / 65536) % 256,
  floor(after / 256) % 256, after % 256)

if redis.call('EXISTS', KEYS[2]) == 0 then
  -- At full size from the start: a string that grows is given twice its size.
  local links = math.min(tonumber(ARGV[2]), total - first)
  redis.call('SETRANGE', KEYS[2], links * 8 - 1, '\0')
end

-- The entries come in order of position, so the range is read and written once.
local position = {}
for i = 1, count do
  local a, b = byte(entries, i * 6 - 5, i * 6 - 4)
  position[i] = a * 256 + b
end
local low, high = position[1], position[count]
local old = redis.call('GETRANGE', KEYS[2], low * 8, high * 8 + 7)
old = old .. string.rep('\0', (high - low + 1) * 8 - #old) -- what is missing reads as zeros
local new, standing, kept = {}, {}, nil

-- Most links have no record yet and get their outcome without any text: what is
-- written then depends on nothing but the head of the entry.
local empty, plain = string.rep('\0', 8), {}
local function first_answer(i, head)
  local known = plain[head]
  if known == nil then
    local nf, attempts = byte(head, 1, 2)
    local outcome = nf % 16
    known = outcome > 0 and outcome ~= 2 and outcome ~= 7 and {
      outcome = outcome, standing = char(outcome + 16),
      record = char(outcome + 16 * (floor(nf / 16) % 2), attempts) .. sub(head, 3, 4) .. stamp,
    }
    plain[head] = known
  end
  return not texts[i] and not statuses[i] and known
end

-- The general case.
local function write(i, pos, rec)
  local of, oa = byte(rec, 1, 2)
  local nf, na = byte(entries, i * 6 - 3, i * 6 - 2)
  local was, outcome = of % 16, nf % 16
  local ambiguous = math.max(floor(of / 16) % 2, floor(nf / 16) % 2)
  local settled, settling = floor(of / 32) % 2, floor(nf / 32) % 2
  local attempts = math.max(oa, na)
  local status = sub(entries, i * 6 - 1, i * 6)
  local wrote, text = 0, texts[i]
  -- Whose call was under way at a failover knows nothing of what was forgotten.
  if outcome == 2 and first + pos < doubt(KEYS[1], tonumber(ARGV[6])) then outcome, ambiguous = 1, 1 end
  if outcome > 0 then
    -- A real answer that comes after an abort replaces "aborted".
    if was == 0 or (was == 7 and outcome ~= 7) then
      if was == 7 then change[7] = change[7] - 1 end
      change[outcome] = change[outcome] + 1
      if outcome == 7 then status = sub(rec, 3, 4) end
      if statuses[i] then
        local high, low = byte(status, 1, 2)
        status = char(high % 4 + 4 * index(statuses[i]), low)
      end
      new[pos] = char(outcome + 16 * ambiguous, attempts) .. status .. stamp
      wrote = 16
      was = outcome
    end
  elseif was == 0 then
    -- While a link settles, status and text stay those of its DELETE.
    if settled == 1 and settling == 1 then status, text = sub(rec, 3, 4), nil end
    new[pos] = char(16 * ambiguous + 32 * settling, attempts) .. status .. '\0\0\0\0'
    wrote = 16
  end
  if wrote == 16 and settled == 1 and not text and not (outcome == 0 and settling == 1) then
    redis.call('HDEL', KEYS[3], first + pos) -- the reason to settle is settled
  elseif wrote == 16 and text then
    kept = kept or redis.call('HLEN', KEYS[3])
    if kept < tonumber(ARGV[3]) or redis.call('HEXISTS', KEYS[3], first + pos) == 1 then
      kept = kept + redis.call('HSET', KEYS[3], first + pos, text)
    end
  end
  standing[i] = char(was + wrote)
end

for i = 1, count do
  local pos = position[i]
  local rec = new[pos] or sub(old, (pos - low) * 8 + 1, (pos - low) * 8 + 8)
  local answer = rec == empty and first_answer(i, sub(entries, i * 6 - 3, i * 6))
  if answer then
    new[pos], standing[i] = answer.record, answer.standing
    change[answer.outcome] = change[answer.outcome] + 1
  else
    write(i, pos, rec)
  end
end

local pieces, at = {}, low
for i = 1, count do
  local pos = position[i]
  if new[pos] and pos >= at then
    pieces[#pieces + 1] = sub(old, (at - low) * 8 + 1, (pos - low) * 8)
    pieces[#pieces + 1] = new[pos]
    at = pos + 1
  end
end
if #pieces > 0 then redis.call('SETRANGE', KEYS[2], low * 8, table.concat(pieces)) end

local sum = 0
for i = 1, 7 do
  counts[i] = counts[i] + change[i]
  sum = sum + counts[i]
  if change[i] ~= 0 then redis.call('HINCRBY', KEYS[1], names[i], change[i]) end
end
if sum == total and redis.call('HSETNX', KEYS[1], 'finished', now) == 1 and state ~= 'aborted' then
  state = 'done'
  redis.call('HSET', KEYS[1], 'state', state)
  redis.call('HDEL', KEYS[1], 'reason')
end
if h[4] == 'on' and sum >= 50 then
  redis.call('HSET', KEYS[1], 'canary', 'passed')
  local tripped = (counts[3] == sum and names[3]) or (counts[5] == sum and names[5])
  if tripped and (state == 'running' or state == 'ready') then
    state = 'paused'
    redis.call('HSET', KEYS[1], 'state', state, 'reason', 'canary:' .. tripped)
  end
end
if state == 'done' or state == 'aborted' then
  -- A late answer must not leave a key behind that outlives a retired batch.
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 then
    for i = 2, 4 do redis.call('PEXPIRE', KEYS[i], left) end
  end
end
return {state, total - sum, table.concat(standing)}
