-- The stop condition of a batch pauses it when too many of its links end badly: rejected, failed,
-- not_found, or not_cancellable though they can still be paid. It is a share such as 5%, of the last
-- 500 outcomes in the order in which they are recorded, from 50 on, or a number of links. A resume
-- counts anew (state.lua). The field bad has the number, and recent the last outcomes: 1 for a bad one.

-- Counts the new outcomes of a call. Returns the reason to pause, or nil.
local function count_bad(stop, call)
  local share = string.match(stop, '^(.+)%%$')
  local limit = tonumber(share or stop)
  if not limit then return nil end -- off
  local h = redis.call('HMGET', KEYS[1], 'bad', 'recent')
  local bad, recent, marks, reason = tonumber(h[1] or 0) or 0, h[2] or '', {}, nil
  local size = #recent
  local _, ones = string.gsub(recent, '1', '')
  for i = 1, call.count do
    local got = string.byte(call.results[i]) - 16 -- above 0: an outcome that the call wrote
    if got > 0 and got ~= 7 then
      local payable = math.floor(string.byte(call.entries, i * 6 - 1) / 4) % 2 == 1
      local is_bad = got == 3 or got == 5 or got == 6 or got == 4 and payable
      marks[#marks + 1] = is_bad and '1' or '0'
      if is_bad then bad, ones = bad + 1, ones + 1 end
      size = size + 1
      if size > 500 then
        local at = size - 500
        local oldest = at <= #recent and string.sub(recent, at, at) or marks[at - #recent]
        if oldest == '1' then ones = ones - 1 end
      end
      local last = math.min(size, 500)
      if not reason and share and last >= 50 and ones * 100 > limit * last then
        reason = 'threshold:' .. ones .. ' of the last ' .. last .. ' links'
      elseif not reason and not share and bad > limit then
        reason = 'threshold:' .. bad .. ' links'
      end
    end
  end
  if #marks > 0 then
    redis.call('HSET', KEYS[1], 'bad', bad)
    if share then redis.call('HSET', KEYS[1], 'recent', string.sub(recent .. table.concat(marks), -500)) end
  end
  return reason
end
