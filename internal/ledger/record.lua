-- Writes what became of links of one chunk: outcomes, and notes about links
-- that have none yet. Every link gets one outcome, whoever repeats the call.
-- KEYS[1] batch  KEYS[2] records  KEYS[3] error texts  KEYS[4] link statuses
-- KEYS[5] kinds of answers  KEYS[6] the canary's row
-- ARGV[1] first link of the chunk  ARGV[2] links a full chunk  ARGV[3] texts kept at most
-- ARGV[4] index of what finds no place in the table of link statuses or kinds: "other"
-- ARGV[5] entries of 6 bytes: position in the chunk (2), head of a record (4);
--         outcome 0 is a note. ARGV[6] how far behind its cursor the batch may have
--         been sent. ARGV[7] the newest format known. ARGV[8…] entry (from 1), error
--         text, link status, kind, wait in ms, …
-- Returns the state, the links still pending, and a byte an entry: the outcome
-- that stands, plus 16 if this call wrote it.
local byte, char, sub, floor = string.byte, string.char, string.sub, math.floor
local h = redis.call('HMGET', KEYS[1], 'state', 'total', 'created', 'canary', 'row', 'v', unpack(outcome_names))
local state, canary, row = h[1], h[4], h[5]
if not state or state == 'importing' then return redis.error_reply('NOBATCH no such sealed batch') end
local format = tonumber(h[6] or 0) or 0
if format < 1 or format > tonumber(ARGV[7]) then return redis.error_reply('NEWER the batch has another format') end
local first, entries = tonumber(ARGV[1]), ARGV[5]
local count, total = #entries / 6, tonumber(h[2])
local counts, change = {}, {}
for i = 1, 7 do counts[i] = tonumber(h[6 + i]); change[i] = 0 end
local words = {} -- where an entry has its words in ARGV
for i = 8, #ARGV, 5 do words[tonumber(ARGV[i])] = i end

local t = redis.call('TIME')
local now = t[1] * 1000 + floor(t[2] / 1000)
local age = now - tonumber(h[3])
local function uint32(n)
  return char(floor(n / 16777216), floor(n / 65536) % 256, floor(n / 256) % 256, n % 256)
end
local stamp = uint32(math.max(0, math.min(4294967295, floor(age / 1000))))

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
local new, standing = {}, {}

-- Most links have no record yet and get their outcome without any words: what is
-- written then depends on nothing but the head of the entry.
local empty, answers = string.rep('\0', 8), {}
local function first_answer(head)
  local known = answers[head]
  if known == nil then
    local nf, attempts, a, b = byte(head, 1, 4)
    local outcome = nf % 16
    known = outcome > 0 and outcome ~= 2 and outcome ~= 7 and {
      outcome = outcome, standing = char(outcome + 16),
      record = char(outcome + 16 * (floor(nf / 16) % 2) + 64 * (floor(nf / 64) % 2), attempts, a % 4, b) .. stamp,
    }
    answers[head] = known
  end
  return known
end

-- All other cases. Few calls need them, so the functions are made on demand.
local kinds
local function general()
  -- A word of an entry; nil if it has none.
  local function word(i, n)
    local text = words[i] and ARGV[words[i] + n]
    return text and text ~= '' and text or nil
  end

  -- Keeps the error text of an entry that was written; without one it may be that
  -- the text from before is outdated.
  local kept
  local function tell(place, text, note, outdated)
    if not text and not outdated then return end
    kept = kept or redis.call('HLEN', KEYS[3])
    if not text then
      if kept > 0 then kept = kept - redis.call('HDEL', KEYS[3], place) end
      return
    end
    local most = tonumber(ARGV[3])
    if note then most = most / 2 end -- why links wait leaves room for what becomes of others
    if kept < most or redis.call('HEXISTS', KEYS[3], place) == 1 then
      kept = kept + redis.call('HSET', KEYS[3], place, text)
    end
  end

  -- How many answers of one kind in a row a pending link has after a note, and the
  -- index of the kind: had and kind are those of its record.
  local function plains(i, had, kind)
    local sent, name = floor(byte(entries, i * 6 - 1) / 4) % 4, word(i, 3)
    if name then
      kinds = kinds or open_kinds(KEYS[5], tonumber(ARGV[4]))
      local seen = kinds.seen(name, first + position[i], kind)
      if had > 0 and seen ~= kind then sent = 1 end
      return math.max(1, sent), seen
    end
    -- Another answer came between; the worker says whether it goes on counting.
    if sent == 0 or had == 0 then return 0, 0 end
    return sent, kind
  end

  -- The record of a pending link.
  local function noted(i, flags, attempts, status, plains, kind)
    local wait, due = tonumber(word(i, 4) or 0), 0
    if wait > 0 then due = math.max(0, math.min(67108863, math.ceil((age + wait) / 1000))) end
    local rec = char(flags + 64 * plains, attempts) .. status .. uint32(67108864 * kind + due)
    -- A link with a text must not look untouched. Due at second 1 is due at once, too.
    if rec == empty and word(i, 1) then rec = sub(rec, 1, 7) .. '\1' end
    return rec
  end

  return function(i, pos, rec)
    local of, oa = byte(rec, 1, 2)
    local nf, na, a, b = byte(entries, i * 6 - 3, i * 6)
    local was, outcome = of % 16, nf % 16
    local ambiguous = math.max(floor(of / 16) % 2, floor(nf / 16) % 2)
    local settled, settling = floor(of / 32) % 2, floor(nf / 32) % 2
    local attempts = math.max(oa, na)
    local status, text = char(a % 4, b), word(i, 1)
    local had = was == 0 and floor(of / 64) or 0
    local kind = had > 0 and floor(byte(rec, 5) / 4) or 0
    if had > 0 and nf >= 128 then -- proven
      kinds = kinds or open_kinds(KEYS[5], tonumber(ARGV[4]))
      kinds.contradict(kind)
    end
    -- Whose call was under way at a failover knows nothing of what was forgotten.
    if outcome == 2 and first + pos < suspect_end(KEYS[1], tonumber(ARGV[6])) then outcome, ambiguous = 1, 1 end
    local wrote = 0
    if outcome > 0 then
      -- A real answer that comes after an abort replaces "aborted".
      if was == 0 or (was == 7 and outcome ~= 7) then
        if was == 7 then change[7] = change[7] - 1 end
        change[outcome] = change[outcome] + 1
        if outcome == 7 then status = sub(rec, 3, 4) end
        if word(i, 2) then status = char(a % 4 + 4 * status_index(KEYS[4], word(i, 2), tonumber(ARGV[4])), b) end
        new[pos] = char(outcome + 16 * ambiguous + 64 * (floor(nf / 64) % 2), attempts) .. status .. stamp
        was, wrote = outcome, 16
        tell(first + pos, text, false, true)
      end
    elseif was == 0 then
      -- While a link settles, status and text stay those of its DELETE.
      local still = settled == 1 and settling == 1
      if still then status, text = sub(rec, 3, 4), nil end
      had, kind = plains(i, had, kind)
      new[pos] = noted(i, 16 * ambiguous + 32 * settling, attempts, status, had, kind)
      wrote = 16
      tell(first + pos, text, settling == 0, settled == 1 and settling == 0) -- the reason to settle is settled
    end
    standing[i] = char(was + wrote)
  end
end

local write
for i = 1, count do
  local pos = position[i]
  local rec = new[pos] or sub(old, (pos - low) * 8 + 1, (pos - low) * 8 + 8)
  local answer = rec == empty and not words[i] and first_answer(sub(entries, i * 6 - 3, i * 6))
  if answer then
    new[pos], standing[i] = answer.record, answer.standing
    change[answer.outcome] = change[answer.outcome] + 1
  else
    write = write or general()
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
if kinds and kinds.save() and format == 1 then
  -- A release that knows no other format may retire the batch, and leave this key.
  redis.call('EXPIRE', KEYS[5], 7776000)
end

local sum, others = 0, -counts[3]
for i = 1, 7 do
  others = others + counts[i]
  counts[i] = counts[i] + change[i]
  sum = sum + counts[i]
  if change[i] ~= 0 then redis.call('HINCRBY', KEYS[1], outcome_names[i], change[i]) end
end
-- What tripped the canary is to be asked again: the batch is not done before.
local over = sum == total and (canary ~= 'tripped' or state == 'aborted')
if over and redis.call('HSETNX', KEYS[1], 'finished', now) == 1 and state ~= 'aborted' then
  state = 'done'
  redis.call('HSET', KEYS[1], 'state', state)
  redis.call('HDEL', KEYS[1], 'reason')
end

local watching = (canary == 'on' or canary == 'tripped') and state ~= 'aborted'
if watching and (row or change[3] > 0 or change[5] > 0) then
  state = watch(state, canary, row, over, {
    count = count, first = first, position = position, standing = standing, others = others, format = format,
    fit = change[3] + change[5], -- outcomes that may be in a row
  })
end
if state == 'done' or state == 'aborted' then
  -- A late answer must not leave a key behind that outlives a retired batch.
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 then
    for i = 2, 6 do redis.call('PEXPIRE', KEYS[i], left) end
  end
end
return {state, total - sum, table.concat(standing)}
