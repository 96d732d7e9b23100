-- The canary looks at outcomes in the order in which they are recorded: 50 in a row
-- that are all not_found, or all rejected, pause the batch. What they rest on may be
-- wrong, so a resume puts them back (state.lua): their places in the manifest are
-- kept, 4 bytes each, and 'row' in the batch's hash has the outcome and how many.
-- The row goes on growing by what was under way when the batch was paused.

-- Returns the row after the outcomes that a call wrote, as outcome, length, places
-- that are new in it, whether it began with these, and whether it is long enough.
local function follow(row, tripped, call)
  local outcome, length = string.match(row or '', '^(%d) (%d+)$')
  outcome, length = tonumber(outcome or 0), tonumber(length or 0)
  local began, places, others, from = false, {}, call.others, 1
  if not tripped and length + call.fit < 50 then
    -- It cannot become long enough: what comes before the last outcome that ends it
    -- does not matter, and most calls end with one.
    for i = call.count, 1, -1 do
      local got = string.byte(call.standing[i]) - 16
      if got > 0 and got ~= 3 and got ~= 5 then
        from = i
        break
      end
    end
  end
  for i = from, call.count do
    local got = string.byte(call.standing[i]) - 16 -- above 0: an outcome that the call wrote
    -- A plain not_found rests on answers over some time, and an API may answer so for
    -- a block of links that are really missing: beside other outcomes it shows little.
    local weak = got == 3 and others > 0 and math.floor(string.byte(ARGV[5], i * 6 - 3) / 64) % 2 == 1
    if got > 0 and (tripped and got == outcome or not tripped and not weak) then
      if got ~= outcome then
        outcome, length, began, places = (got == 3 or got == 5) and got or 0, 0, true, {}
      end
      if outcome > 0 then
        local place = call.first + call.position[i]
        places[#places + 1] = string.char(math.floor(place / 16777216), math.floor(place / 65536) % 256,
          math.floor(place / 256) % 256, place % 256)
        length = length + 1
        tripped = tripped or length >= 50
      end
    end
    if got > 0 and got ~= 3 then others = others + 1 end
  end
  return outcome, length, places, began, tripped
end

-- Takes the outcomes that a call of record.lua wrote into the row, and returns the
-- batch's state after that. over: the batch has ended with them.
local function watch(state, canary, row, over, call)
  local outcome, length, places, began, tripped = follow(row, canary == 'tripped', call)
  if outcome == 0 or over then
    if row then
      redis.call('HDEL', KEYS[1], 'row')
      redis.call('DEL', KEYS[6])
    end
    return state
  end
  if #places == 0 then return state end
  if began then redis.call('DEL', KEYS[6]) end
  redis.call('SETRANGE', KEYS[6], (length - #places) * 4, table.concat(places))
  redis.call('HSET', KEYS[1], 'row', outcome .. ' ' .. length)
  -- A release that knows no other format may retire the batch, and leave this key.
  if call.format == 1 then redis.call('EXPIRE', KEYS[6], 7776000) end
  if not tripped or canary ~= 'on' then return state end
  redis.call('HSET', KEYS[1], 'canary', 'tripped')
  if state == 'paused' then return state end -- its reason stands
  redis.call('HSET', KEYS[1], 'state', 'paused', 'reason', 'canary:' .. (outcome == 3 and 'not_found' or 'rejected'))
  return 'paused'
end
