-- The canary watches outcomes in the order in which they are recorded. 50 in a row that are all
-- not_found, or all rejected, pause the batch. They may be wrong, so a resume reopens them
-- (state.lua). For that, KEYS[6] holds their positions in the manifest, 4 bytes each, and the field
-- row holds the outcome and the length. After the pause the row still grows by requests in flight.

-- Returns outcome, length, new positions, whether a new row began, and whether it is long enough.
local function extend_row(row, tripped, call)
  local outcome, length = string.match(row or '', '^(%d) (%d+)$')
  outcome, length = tonumber(outcome or 0), tonumber(length or 0)
  local began, positions, others, from = false, {}, call.others, 1
  if not tripped and length + call.countable < 50 then
    -- It cannot become long enough: skip what comes before the last outcome that ends a row.
    for i = call.count, 1, -1 do
      local got = string.byte(call.results[i]) - 16
      if got > 0 and got ~= 3 and got ~= 5 then
        from = i
        break
      end
    end
  end
  for i = from, call.count do
    local got = string.byte(call.results[i]) - 16 -- above 0: an outcome that the call wrote
    -- A plain not_found rests on several answers over some time, and a block of links may
    -- really be missing. It counts only if there are no other outcomes.
    local weak = got == 3 and others > 0 and math.floor(string.byte(call.entries, i * 6 - 3) / 64) % 2 == 1
    if got > 0 and (tripped and got == outcome or not tripped and not weak) then
      if got ~= outcome then
        outcome, length, began, positions = (got == 3 or got == 5) and got or 0, 0, true, {}
      end
      if outcome > 0 then
        local position = call.first + call.position[i]
        positions[#positions + 1] = string.char(math.floor(position / 16777216), math.floor(position / 65536) % 256,
          math.floor(position / 256) % 256, position % 256)
        length = length + 1
        tripped = tripped or length >= 50
      end
    end
    if got > 0 and got ~= 3 then others = others + 1 end
  end
  return outcome, length, positions, began, tripped
end

-- Adds the outcomes of a call to the row and returns the batch's state. over: it has ended.
local function watch(state, canary, row, over, call)
  local outcome, length, positions, began, tripped = extend_row(row, canary == 'tripped', call)
  if outcome == 0 or over then
    if row then
      redis.call('HDEL', KEYS[1], 'row')
      redis.call('DEL', KEYS[6])
    end
    return state
  end
  if #positions == 0 then return state end
  if began then redis.call('DEL', KEYS[6]) end
  redis.call('SETRANGE', KEYS[6], (length - #positions) * 4, table.concat(positions))
  redis.call('HSET', KEYS[1], 'row', outcome .. ' ' .. length)
  -- A release that knows only format 1 may retire the batch and leave this key.
  if call.format == 1 then redis.call('EXPIRE', KEYS[6], 7776000) end
  if not tripped or canary ~= 'on' then return state end
  redis.call('HSET', KEYS[1], 'canary', 'tripped')
  if state == 'paused' then return state end -- keep its reason
  local reason = 'canary:' .. (outcome == 3 and 'not_found' or 'rejected')
  redis.call('HSET', KEYS[1], 'state', 'paused', 'reason', reason)
  call.add_automatic('pause', reason)
  return 'paused'
end
