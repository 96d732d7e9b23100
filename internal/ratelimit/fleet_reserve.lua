-- The one call of all processes and commands: takes in what happened since the
-- last call, and reserves slots.
--
-- ARGV[1] process id; '' for a command  [2] its present run  [3] number of the call
-- [4] own --rate [5] --burst; 0: a guest [6] slots that could be used at once
-- [7] slots wanted                      [8] lead: µs from now before which a slot is of no use
-- [9] epoch and [10] instant of the last reply, 0 at first   [11] latest grant known
-- [12] own hold's reason, [13] how long it lasts yet, µs     [14] 1: the process leaves
-- ARGV[15…] what happened, five a piece: kind, seq, a, b, text
--
-- Returns the numbers that Go's parseReply reads, the hold's cause, and the
-- processes alive for a command. The same call again (go-redis repeats what got no answer) changes
-- nothing and returns the same slots.
local format = string.format

local silentAfter = 15 * second -- without a call a process is not alive,
local idleAfter = second        -- and after this it wants no slots
-- Slots are given at a margin under the rate, as timers fire late and slots
-- that came due are then used together. Above marginAbove a second it is wider:
-- there a millisecond of jitter on the way holds more requests than 1 % of jitter
-- allows.
local margin, marginWide, marginAbove = 0.995, 0.9925, 1000
-- How far ahead slots are given: time enough for every process to have one, and
-- for two calls.
local horizonLeast, horizonMost = 100000, 250000
local lost = 50000             -- added to what others have reserved when the state is lost
local aheadMost = 3 * second   -- no schedule is further ahead than this
local id, run, call = ARGV[1], ARGV[2], tonumber(ARGV[3])
local flag, usable, want, lead = tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local epoch, seen = tonumber(ARGV[9]), tonumber(ARGV[10])
g.seq = math.max(g.seq, tonumber(ARGV[11]))
tick()

-- Slots for this call: n of them, number j (from 0) at max(from, base + j * spacing).
local n, from, base, spacing, first, probe, retry = 0, 0, 0, 0, 0, 0, 0
local before = {}
for word in string.gmatch(workers[id] or '', '%S+') do before[#before + 1] = word end
local again = id ~= '' and before[1] == run and tonumber(before[2]) >= call
if again then
  if tonumber(before[2]) == call then
    n, from, base = tonumber(before[9]), tonumber(before[10]), tonumber(before[11])
    first, probe, spacing = tonumber(before[12]), tonumber(before[13]), tonumber(before[14])
  end
else
  local stood = holds()
  for i = 15, #ARGV, 5 do happened[ARGV[i]](tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]) end
  if g.outage == 0 and g.throttleUntil <= now and g.proving == 0 then cause = '' end
  -- The others call at once. A user who may not publish loses only time: they
  -- call twice a second.
  if holds() ~= stood then redis.pcall('PUBLISH', key, id) end
end

-- The ceiling: the lowest flag of the workers alive, unless an operator set
-- one. The flags of guests count while there are no workers.
local ceiling, burst, guests, active = math.huge, math.huge, math.huge, 0
local alive, gone = {}, {}
if id ~= '' and not again then
  workers[id] = format('%s %.0f %s %s %.0f %d', run, call, ARGV[4], ARGV[5], now, usable)
end
for name, text in pairs(workers) do
  local w = {}
  for word in string.gmatch(text, '%S+') do w[#w + 1] = word end
  local silent = now - tonumber(w[5])
  if silent > silentAfter or (name == id and ARGV[14] == '1') then
    gone[#gone + 1] = 'w:' .. name
  else
    if tonumber(w[4]) > 0 then
      ceiling, burst = math.min(ceiling, tonumber(w[3])), math.min(burst, tonumber(w[4]))
      for _, word in ipairs({name, w[3], w[7] or '-', w[8] or '0'}) do alive[#alive + 1] = word end
    else
      guests = math.min(guests, tonumber(w[3]))
    end
    if tonumber(w[6]) > 0 and silent < idleAfter then active = active + 1 end
  end
end
if ceiling == math.huge and guests < math.huge then ceiling, burst = guests, 1 end
if ceiling < math.huge then g.burst = burst else ceiling = g.ceiling end
if g.override > 0 then ceiling = g.override end
setCeiling(ceiling)

local interval = g.rate > 0 and second / (g.rate * (g.rate > marginAbove and marginWide or margin)) or 0
local horizon = math.min(math.max(horizonLeast, active * interval), horizonMost) + 2 * lead
if g.rate > 0 then
  -- What is reserved ahead counts as slots, not as time, when the rate rises.
  -- When it falls, the next slot comes one new interval after the last.
  if g.interval > 0 and g.tat > now and interval ~= g.interval then
    g.tat = now + math.min((g.tat - now) * interval / g.interval, g.tat - now + g.burst * interval)
  end
  -- The state is lost or older than the fleet knows: what others have reserved
  -- runs out first.
  if epoch ~= 0 and (epoch ~= g.epoch or (stored.now and tonumber(stored.now) < seen)) then
    g.tat = math.max(g.tat, now + horizon + lost + (g.burst - 1) * interval)
  end
  if g.tat > now + aheadMost + (g.burst + 1) * interval then g.tat = now end -- cannot be
  g.interval = interval
end

if want > 0 and not again and g.rate > 0 then
  local at, isProbe = open()
  if at > now then
    retry = at - now
  else
    if isProbe then want = 1 end
    from = now + lead
    base = math.max(g.tat, from) - (g.burst - 1) * interval
    n = math.max(0, math.min(want, math.floor((now + horizon - base) / interval) + 1))
    if n == 0 then
      retry = base - now - horizon
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
-- Most have not changed, and to write a number takes its time.
for name, value in pairs(g) do
  if was[name] ~= value then put(name, format('%.17g', value)) end
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
  if id ~= '' and ARGV[14] ~= '1' and not again then
    put('w:' .. id, format('%s %s %s %d %.17g %.17g %.0f %d %.17g', workers[id],
      ARGV[12] == '' and '-' or ARGV[12], ARGV[13], n, from, base, first, probe, spacing))
  end
  if #write > 0 then redis.call('HSET', key, unpack(write)) end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
end

local opens = open()
local reply = {}
for i, value in ipairs({n, from, base, spacing, first, probe, retry, horizon, math.max(active, 1)}) do
  reply[i] = format('%.17g', value)
end
for _, name in ipairs({
  'epoch', 'now', 'rate', 'ceiling', 'override', 'burst', 'interval',
  'manualSince', 'manualUntil', 'throttleSince', 'throttleUntil',
  'outage', 'since', 'nextProbe', 'probe',
}) do reply[#reply + 1] = stored[name] end
for _, value in ipairs({opens, outageAnswers - g.failures, g.releases, g.seq}) do
  reply[#reply + 1] = format('%.17g', value)
end
reply[#reply + 1] = cause
if id == '' then
  for _, word in ipairs(alive) do reply[#reply + 1] = word end
end
return reply
