-- Writes outcomes of links of one chunk, and notes about links that have none yet. The
-- first outcome of a link is final, so the call may be repeated.
-- KEYS[1] batch  KEYS[2] records  KEYS[3] error texts  KEYS[4] link statuses
-- KEYS[5] kinds of answers  KEYS[6] the canary's row  KEYS[7] history
-- ARGV[1] position of the chunk's first link in the manifest
-- ARGV[2] links in a full chunk
-- ARGV[3] maximum number of error texts
-- ARGV[4] index for link statuses and kinds that have no room in their table
-- ARGV[5] entries of 6 bytes, sorted: position in the chunk (2), head of a record (4).
--         Outcome 0 is a note.
-- ARGV[6] how many links past the cursor may have been sent
-- ARGV[7] the newest format that this release knows
-- ARGV[8…] for entries that have any: number of the entry (from 1), error text, link
--         status, kind, wait in ms
-- Returns the state, the number of pending links, and one byte per entry: the outcome of
-- its link now, plus 16 if this call wrote it.
local byte, char, sub, floor = string.byte, string.char, string.sub, math.floor
local first, chunk_links, max_texts, other = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local entries, sent_ahead, newest_format = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local h = redis.call('HMGET', KEYS[1], 'state', 'total', 'created', 'canary', 'row', 'v', 'stop', unpack(outcome_names))
local state, canary, row, stop = h[1], h[4], h[5], h[7]
if not state or state == 'importing' then return redis.error_reply('NOBATCH no such sealed batch') end
local format = tonumber(h[6] or 0) or 0
if format < 1 or format > newest_format then return redis.error_reply('NEWER the batch has another format') end
local count, total = #entries / 6, tonumber(h[2])
local counts, change = {}, {}
for i = 1, #outcome_names do counts[i] = tonumber(h[7 + i] or 0) or 0; change[i] = 0 end
local words = {} -- index in ARGV of the words of an entry
for i = 8, #ARGV, 5 do words[tonumber(ARGV[i])] = i end

local t = redis.call('TIME')
local now = t[1] * 1000 + floor(t[2] / 1000)
local age = now - tonumber(h[3])
-- Adds an entry about what the ledger itself did.
local function add_automatic(action, reason, detail)
  local entry = {action = action, actor = 'linkcancel', reason = reason, detail = detail, auto = true}
  redis.call('HSET', KEYS[1], 'history', add_history(KEYS[7], now, entry))
end
local function uint32(n)
  return char(floor(n / 16777216), floor(n / 65536) % 256, floor(n / 256) % 256, n % 256)
end
local stamp = uint32(math.max(0, math.min(4294967295, floor(age / 1000))))

-- The entries are sorted, so one range covers them.
local position = {}
for i = 1, count do
  local a, b = byte(entries, i * 6 - 5, i * 6 - 4)
  position[i] = a * 256 + b
end
local low, high = position[1], position[count]
local old = redis.call('GETRANGE', KEYS[2], low * 8, high * 8 + 7)
if old == '' then
  -- At full size from the start, because Redis doubles the memory of a growing string.
  local links = math.min(chunk_links, total - first)
  redis.call('SETRANGE', KEYS[2], links * 8 - 1, '\0')
end
old = old .. string.rep('\0', (high - low + 1) * 8 - #old) -- missing bytes read as zeros
local new, results = {}, {}

-- Fast path: most links have no record yet and get an outcome without words.
local empty, answers = string.rep('\0', 8), {}
local function first_answer(head)
  local known = answers[head]
  if known == nil then
    local nf, attempts, a, b = byte(head, 1, 4)
    local outcome = nf % 16
    known = outcome > 0 and outcome ~= 2 and outcome ~= 7 and {
      outcome = outcome, result = char(outcome + 16),
      record = char(outcome + 16 * (floor(nf / 16) % 2) + 64 * (floor(nf / 64) % 2), attempts, a % 4, b) .. stamp,
    }
    answers[head] = known
  end
  return known
end

-- All other cases. Few calls need them, so the functions are created on demand.
local kinds
local function general()
  -- Returns a word of an entry, or nil.
  local function word(i, n)
    local text = words[i] and ARGV[words[i] + n]
    return text and text ~= '' and text or nil
  end

  -- Stores the error text of an entry, or deletes an outdated one.
  local kept
  local function keep_text(position, text, note, outdated)
    if not text and not outdated then return end
    kept = kept or redis.call('HLEN', KEYS[3])
    if not text then
      if kept > 0 then kept = kept - redis.call('HDEL', KEYS[3], position) end
      return
    end
    local most = max_texts
    if note then most = most / 2 end -- leave room for texts of outcomes
    if kept < most or redis.call('HEXISTS', KEYS[3], position) == 1 then
      kept = kept + redis.call('HSET', KEYS[3], position, text)
    end
  end

  -- Returns how many answers of one kind in a row a pending link has after a note, and the
  -- index of the kind. had and kind are the values in its record.
  local function plains(i, had, kind)
    local sent, name = floor(byte(entries, i * 6 - 1) / 4) % 4, word(i, 3)
    if name then
      kinds = kinds or open_kinds(KEYS[5], other)
      local seen = kinds.seen(name, first + position[i], kind)
      if had > 0 and seen ~= kind then sent = 1 end
      return math.max(1, sent), seen
    end
    -- Another answer came in between. The worker decides whether the count continues.
    if sent == 0 or had == 0 then return 0, 0 end
    return sent, kind
  end

  -- Returns the record of a pending link.
  local function noted(i, flags, attempts, status, plains, kind)
    local wait, due = tonumber(word(i, 4) or 0), 0
    if wait > 0 then due = math.max(0, math.min(67108863, math.ceil((age + wait) / 1000))) end
    local rec = char(flags + 64 * plains, attempts) .. status .. uint32(67108864 * kind + due)
    -- A link with a text must not look untouched. Due at second 1 also means at once.
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
      kinds = kinds or open_kinds(KEYS[5], other)
      kinds.contradict(kind)
    end
    -- A worker with a call in flight at a failover does not know of its own earlier DELETE.
    if outcome == 2 and first + pos < suspect_end(KEYS[1], sent_ahead) then outcome, ambiguous = 1, 1 end
    local wrote = 0
    if outcome > 0 then
      -- A real answer that comes after an abort replaces "aborted".
      if was == 0 or (was == 7 and outcome ~= 7) then
        if was == 7 then change[7] = change[7] - 1 end
        change[outcome] = change[outcome] + 1
        if outcome == 7 then status = sub(rec, 3, 4) end
        if word(i, 2) then status = char(a % 4 + 4 * status_index(KEYS[4], word(i, 2), other), b) end
        new[pos] = char(outcome + 16 * ambiguous + 64 * (floor(nf / 64) % 2), attempts) .. status .. stamp
        was, wrote = outcome, 16
        keep_text(first + pos, text, false, true)
      end
    elseif was == 0 then
      -- While a link settles, it keeps the status and text of its DELETE.
      local still = settled == 1 and settling == 1
      if still then status, text = sub(rec, 3, 4), nil end
      had, kind = plains(i, had, kind)
      new[pos] = noted(i, 16 * ambiguous + 32 * settling, attempts, status, had, kind)
      wrote = 16
      keep_text(first + pos, text, settling == 0, settled == 1 and settling == 0)
    end
    results[i] = char(was + wrote)
  end
end

local write
for i = 1, count do
  local pos = position[i]
  local rec = new[pos] or sub(old, (pos - low) * 8 + 1, (pos - low) * 8 + 8)
  local answer = rec == empty and not words[i] and first_answer(sub(entries, i * 6 - 3, i * 6))
  if answer then
    new[pos], results[i] = answer.record, answer.result
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
  -- A release that knows only format 1 may retire the batch and leave this key.
  redis.call('EXPIRE', KEYS[5], 7776000)
end

local sum, others = 0, -counts[3]
for i = 1, #outcome_names do
  others = others + counts[i]
  counts[i] = counts[i] + change[i]
  sum = sum + counts[i]
  if change[i] ~= 0 then redis.call('HINCRBY', KEYS[1], outcome_names[i], change[i]) end
end
-- Outcomes that tripped the canary will be reopened, so the batch is not done yet.
local over = sum == total and (canary ~= 'tripped' or state == 'aborted')
if over and redis.call('HSETNX', KEYS[1], 'finished', now) == 1 then
  if state ~= 'aborted' then
    state = 'done'
    redis.call('HSET', KEYS[1], 'state', state)
    redis.call('HDEL', KEYS[1], 'reason')
  end
  local numbers = {}
  for i, name in ipairs(outcome_names) do
    if counts[i] > 0 then numbers[#numbers + 1] = string.format('%.0f ', counts[i]) .. name end
  end
  add_automatic('finish', nil, table.concat(numbers, ', '))
end

local watching = (canary == 'on' or canary == 'tripped') and state ~= 'aborted'
if watching and (row or change[3] > 0 or change[5] > 0) then
  state = watch(state, canary, row, over, {
    count = count, first = first, position = position, results = results, entries = entries, others = others, format = format,
    add_automatic = add_automatic,
    countable = change[3] + change[5], -- outcomes that can be in a row
  })
end
if stop and not over and state ~= 'aborted' then
  local reason = count_bad(stop, {count = count, results = results, entries = entries})
  if reason and state ~= 'paused' then
    redis.call('HSET', KEYS[1], 'state', 'paused', 'reason', reason)
    add_automatic('pause', reason)
    state = 'paused'
  end
end
if state == 'done' or state == 'aborted' then
  -- A late answer must not leave a key that outlives a retired batch.
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 then
    for i = 2, 6 do redis.call('PEXPIRE', KEYS[i], left) end
  end
end
return {state, total - sum, table.concat(results)}
