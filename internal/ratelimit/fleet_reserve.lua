-- The one call of all processes and commands: applies what happened since the last
-- call, and reserves slots.
--
-- ARGV[1] process id; '' for a command  [2] its present run   [3] number of the call
-- [4] own --rate  [5] --burst, or 0 for an observer  [6] slots that could be used at once
-- [7] slots wanted  [8] lead: µs from now before which a slot is of no use
-- [9] epoch and [10] time of the last reply, 0 at first       [11] latest grant known
-- [12] reason of the own hold  [13] how long it lasts, µs  [14] 1: the process leaves
-- ARGV[15...] events, five arguments each: kind, seq, and three of the kind's own
--
-- Returns the numbers that parseReply in script.go reads by name, the cause of the hold, who began
-- the manual one, the window, and, for a command, a text for each worker. The same call again changes nothing and
-- returns the same slots: go-redis repeats a call without a reply.
local format = string.format

local id, run, call = ARGV[1], ARGV[2], tonumber(ARGV[3])
local flag, usable, want, lead = tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local epoch, seen = tonumber(ARGV[9]), tonumber(ARGV[10])
g.seq = math.max(g.seq, tonumber(ARGV[11]))
local before = g.now -- the time of the last call
tick()

-- The slots of this call: n of them. Slot j, from 0, is due at max(from, base + j * spacing).
local n, from, base, spacing, first, probe, retry = 0, 0, 0, 0, 0, 0, 0
local previous = {}
for word in string.gmatch(stored[own] or '', '%S+') do previous[#previous + 1] = word end
local changed = false
local repeated = id ~= '' and previous[1] == run and tonumber(previous[2]) >= call
if repeated then
  if tonumber(previous[2]) == call then
    n, from, base = tonumber(previous[9]), tonumber(previous[10]), tonumber(previous[11])
    first, probe, spacing = tonumber(previous[12]), tonumber(previous[13]), tonumber(previous[14])
  end
else
  local held = holds()
  for i = 15, #ARGV, 5 do happened[ARGV[i]](tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]) end
  if g.outage == 0 and g.throttleUntil <= now and g.proving == 0 then cause = '' end
  for i, value in ipairs(holds()) do changed = changed or value ~= held[i] end
end

-- The ceiling: the lowest rate of the live workers, unless an operator set one. The
-- rates of observers count only while there are no workers.
local mine = format('%s %.0f %s %s %.0f %d', run, call, ARGV[4], ARGV[5], now, usable)
local alive, dead = {}, {}
local function count()
  local ceiling, burst, observers, active, unknown, single = math.huge, math.huge, math.huge, 0, 0, 0
  local all = redis.call('HGETALL', key)
  if id ~= '' and not previous[1] then
    all[#all + 1] = own
    all[#all + 1] = mine
  end
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'w:' then
      local rate, b, at, wants, reason, lasts, given =
        string.match(all[i + 1], '^%S+ %S+ (%S+) (%S+) (%S+) (%S+) ?(%S*) ?(%S*) ?(%S*)')
      if all[i] == own and not repeated then rate, b, at, wants = ARGV[4], ARGV[5], now, usable end
      local silent = now - tonumber(at)
      if silent > silentAfter or (all[i] == own and ARGV[14] == '1') then
        dead[#dead + 1] = all[i]
      else
        if tonumber(b) > 0 then
          ceiling, burst = math.min(ceiling, tonumber(rate)), math.min(burst, tonumber(b))
          alive[#alive + 1] = format('%s %s %s %s', rate, reason ~= '' and reason or '-', lasts ~= '' and lasts or '0', string.sub(all[i], 3))
        else
          observers = math.min(observers, tonumber(rate))
        end
        if all[i] ~= own then unknown = unknown + (tonumber(given) or 0) * math.min(1, silent / horizonShared) end
        if tonumber(wants) > 0 and silent < idleAfter then
          active = active + 1
          if tonumber(b) == 0 or tonumber(rate) < g.rate then single = 1 end
        end
      end
    end
  end
  if ceiling == math.huge and observers < math.huge then ceiling, burst = observers, 1 end
  if ceiling < math.huge then g.burst = burst else ceiling = g.ceiling end
  g.counted, g.active, g.unknown, g.single = now, active, unknown, single
  return ceiling
end
local ceiling = g.ceiling
if id == '' or ARGV[14] == '1' or math.abs(now - g.counted) >= countEvery
  or previous[3] ~= ARGV[4] or previous[4] ~= ARGV[5] or (tonumber(previous[6]) > 0) ~= (usable > 0) then
  ceiling = count()
end
if g.override > 0 then ceiling = g.override end
-- The others then call at once, or at their next heartbeat if this user may not publish.
if changed or toldFailures or ceiling < g.ceiling then redis.pcall('PUBLISH', key, id) end
-- A rate that was not cut follows the ceiling.
if g.rate >= g.ceiling or g.rate > ceiling then g.rate = ceiling end
g.ceiling = ceiling

local active = math.max(g.active, 1)
local interval = g.rate > 0 and second / (g.rate * (g.rate > marginAbove and marginWide or margin)) or 0
local far = g.single == 1 and 0 or horizonAlone
if far > 0 and active > 1 then far = math.min(rowSlots * active * interval, math.max(horizonShared, 2.5 * active * interval), horizonMost) end
local near = math.min(math.max(horizonLeast, active * interval), horizonNear)
local horizon = math.max(near, math.min(far, horizonSlots * interval)) + 2 * lead
if g.rate > 0 then
  -- When the rate changes, the next slot comes one new interval after the last one that is
  -- reserved. If that is in the past, the part of the interval that is left changes.
  if g.interval > 0 and g.tat > now and interval ~= g.interval then
    local burst = math.min(g.tat - now, g.burst * g.interval)
    g.tat = g.tat - burst + burst * interval / g.interval
  end
  -- If Redis' TIME was set forward, the slots that were reserved ahead still are.
  if now - before > gapMost then g.tat = math.max(g.tat, now + g.tat - g.burst * interval - before) end
  -- If the state is lost, or older than what the process has seen, wait until the slots
  -- that others have reserved are over.
  if epoch ~= 0 and (epoch ~= g.epoch or (stored.now and tonumber(stored.now) < seen)) then
    local most = math.max(horizonNear, math.min(horizonMost, horizonSlots * interval)) + 2 * lead
    g.tat = math.max(g.tat, now + most + lostAhead + (g.burst - 1) * interval)
  end
  if g.tat > now + aheadMost + (g.burst + 1) * interval then g.tat = now end -- impossible
  g.interval = interval
end

if want > 0 and not repeated and g.rate > 0 then
  local at, isProbe = open()
  if at > now then
    retry = at - now
  else
    if isProbe then want = 1 end
    if active > 1 then want = math.min(want, math.max(1, math.floor(horizon / (active * interval)))) end
    from = now + lead
    base = math.max(g.tat, from) - (g.burst - 1) * interval
    n = math.max(0, math.min(want, math.floor((now + horizon - base) / interval) + 1))
    local _, close = windowAt(now)
    if close - lateness <= from then
      n, retry = 0, windowAt(close) - now
    else
      n = math.max(0, math.min(n, math.floor((close - lateness - base) / interval) + 1))
    end
    if n == 0 then
      retry = math.max(retry, base - now - horizon)
    else
      g.tat = math.max(g.tat, from) + n * interval
      first, spacing = g.seq + 1, interval
      g.seq = g.seq + n
      if isProbe then
        g.probe, g.probeAt, g.probeDue, probe = g.seq, now, now + throttleProbe, 1
      end
    end
  end
end

local write = {}
local function put(field, value)
  if stored[field] ~= value then
    stored[field] = value
    write[#write + 1] = field
    write[#write + 1] = value
  end
end
-- Most numbers have not changed, and formatting is slow.
for i = 1, #names do
  local name = names[i]
  if was[name] ~= g[name] then put(name, format('%.17g', g[name])) end
end
if id ~= '' or #ARGV > 14 then
  put('good', table.concat(good, ' '))
  local names = {}
  for link in pairs(links) do names[#names + 1] = link end
  table.sort(names)
  put('links', table.concat(names, ' '))
  put('suspects', suspectsText())
  put('proper', properText())
  put('cause', cause)
  put('manual', manual)
  if window ~= '' or stored.window then
    put('window', window)
    put('opens', opens)
  end
  if id ~= '' and ARGV[14] ~= '1' and not repeated then
    put(own, format('%s %s %s %d %.17g %.17g %.0f %d %.17g', mine,
      ARGV[12] == '' and '-' or ARGV[12], ARGV[13], n, from, base, first, probe, spacing))
  end
  if #write > 0 then redis.call('HSET', key, unpack(write)) end
  if #dead > 0 then redis.call('HDEL', key, unpack(dead)) end
end

local windowFrom, windowTo = windowAt(now)
-- One text is much cheaper than a value for each number.
local numbers = {format(
  'windowFrom %.17g windowTo %.17g windowNext %.17g n %d from %.17g base %.17g spacing %.17g first %.17g isProbe %d retry %.17g horizon %.17g active %d opens %.17g untilOutage %d',
  windowFrom, windowTo, windowTo < never and windowAt(windowTo) or never, n, from, base, spacing, first, probe, retry, horizon, active, (open()), outageAnswers - g.failures)}
for _, name in ipairs({
  'epoch', 'now', 'seq', 'rate', 'ceiling', 'override', 'burst', 'interval', 'single',
  'manualSince', 'manualUntil', 'throttleSince', 'throttleUntil',
  'outage', 'since', 'nextProbe', 'probe', 'releases',
}) do
  numbers[#numbers + 1] = name
  numbers[#numbers + 1] = stored[name]
end
local reply = {table.concat(numbers, ' '), cause, manual, format('%s\n%.0f', window, g.windowOnce / second)}
if id == '' then
  for _, worker in ipairs(alive) do reply[#reply + 1] = worker end
end
return reply
