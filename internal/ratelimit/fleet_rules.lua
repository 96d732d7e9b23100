-- The rules by which a fleet adapts its rate and holds. doc.go explains them. fleet_reserve.lua
-- follows and uses them. The unauthorized hold is not here: each process has its own.
--
-- KEYS[1] is a hash. It has a field for each of the names and texts below, and w:<id> for each
-- process. KEYS[2] is the history of commands. Times are in µs of a clock that starts near 0 with
-- the key, so that doubles keep fractions of a µs. The clock follows Redis' TIME, but stops while
-- TIME is behind it, as after a failover.
local key = KEYS[1]
local second = 1000000
local never = 9007199254740991 -- 2^53-1

-- All constants of both files. Times are in µs.

local throttleFirst = second       -- the hold after a 429 without Retry-After
local throttleMost = 30 * second   -- it doubles up to this
local throttleProbe = 900 * second -- a longer hold is probed this often
local retryAfterMost = 366 * 86400 * second

-- A throttled hold needs evidence from several links: two with no good answer in
-- between, or many. Each time is the longer of a duration and a number of slots, because
-- at a low rate answers are far apart.
local pairWithin, pairSlots = second, 4
local manyWithin, manySlots = 2 * second, 20
local manyLinks, manyPart = 3, 0.01 -- many: this many links, and this share of the good answers
local suspectsMost = 20
local repeatMost = second -- a link that had a 429 before extends a hold by this at most
local control = 'control' -- the link of a request that only checks the API

-- A cut lowers the rate to a part of the good answers of the last second. They say
-- little when sending has just begun or when the rate is a few per second, so one cut
-- takes a twentieth to a half. The next one may follow a second later.
local cutEvery = second
local cutTo = 0.85
local cutMost, cutLeast = 0.5, 0.95
local rateLeast = 0.1          -- no cut goes below this rate per second,
local ceilingPartLeast = 0.001 -- or below this part of the ceiling

local climbStep = 0.0025        -- of the ceiling, per second
local climbDouble = 20 * second -- the step doubles after this time without a 429
local climbDoublings = 60       -- at most, so that the step stays a number

local outageAnswers, outageLinks = 20, 10 -- failures in a row, and the links that they must come from
local rowBreaks = 100 -- unproven answers between two failures that end the row
local outageFirst, outageMost = second, 10 * second -- between the probes of an outage
local recoverFrom, recoverIn = 0.1, 14 -- a part of the ceiling; seconds

local lateness = 5000 -- a slot may be used this late: maxLateness in slots.go

local probeExpires = 20 * second -- without an answer another probe may go then
local proofExpires = second      -- the same for requests after a throttled hold

local meterParts, meterPart = 10, 100000 -- parts of the meter of good answers, and the length of each

local silentAfter = 15 * second -- a process without a call is dead then,
local idleAfter = 2.5 * second  -- and wants no slots then
-- Who takes part is counted anew this often, and when a process of this release joins, leaves,
-- begins or ends to want slots, or has another rate or burst.
local countEvery = 250000
-- Slots are given at a margin below the rate, because timers fire late and slots that
-- are due are then used together. Above marginAbove per second the margin is wider: a
-- millisecond of jitter then covers more requests than 1% of jitter allows.
local margin, marginWide, marginAbove = 0.995, 0.9925, 1000
-- How far ahead slots are given. A process alone gets many for each call. Among several a process has its
-- slots in a row, and then waits for its turn: a row of more than rowSlots would need many
-- callers at once. In a large fleet there are two for each process. The horizon is short, enough for
-- two calls and for a slot for each process, if it has more than horizonSlots, and while a
-- process takes slots one by one: they would come in rows, which its own rate does not allow.
local horizonLeast, horizonNear = 100000, 250000
local horizonAlone, horizonShared, horizonMost = second, second / 2, 1.5 * second
local horizonSlots, rowSlots = 1000, 16
local lostAhead = 50000      -- added to what others have reserved when the state is lost
local aheadMost = 3 * second -- no schedule is further ahead than this
-- A fleet makes calls more often than this. After a longer time without one, Redis' TIME may have been set.
local gapMost = 3 * second

-- The numbers of the state. Those that a new fleet does not have are 0, but for the ones below.
local names = {
  'epoch', 'shift', 'now', 'seq',
  'tat', 'interval', 'burst', 'ceiling', 'rate', 'override',
  -- What was counted last, and when: processes that want slots, about how many answers
  -- other processes have got since their last calls, and whether one takes slots one by one: an observer, or one with a lower rate.
  'counted', 'active', 'unknown', 'single',
  -- Adaptation. sending is its clock, which stops in a hold. clear is the time on it
  -- since the last 429. slope is by how much the rate grows per second after an outage.
  -- Answers to grants up to cutSeq do not cut again.
  'sending', 'clear', 'slope', 'tenth', 'cutAt', 'cutSeq',
  'manualSince', 'manualUntil',
  'windowOnce', -- until when the window is open anyway, in µs of Redis' own TIME
  -- A throttled hold may be probed from probeDue on. 429s of grants up to stepSeq do not
  -- double step. heldSeq is the latest grant at the last 429. proving is 1 after the hold
  -- until an answer shows that the API takes requests again. A failure does not: the API
  -- may be overloaded. Until then requests go one at a time, and a 429 does not cut.
  'throttleSince', 'throttleUntil', 'probeDue', 'step', 'stepSeq', 'heldSeq', 'proving',
  -- Failures of grants up to outageSeq belong to an earlier outage.
  'outage', 'since', 'nextProbe', 'pause', 'outageSeq',
  'probe', 'probeAt', -- the probe that is out, or 0
  'failures', 'unproven', -- failures in a row; unproven answers since the last one
  'releases',
}
local g = {burst = 1, cutAt = -cutEvery}

-- Only these fields are read, and that of the process itself: there may be many others.
local texts = {'good', 'links', 'suspects', 'proper', 'cause', 'manual', 'window', 'opens'}
local own = 'w:' .. (ARGV[1] or '')
local stored = {}
local function read(fields)
  local values = redis.call('HMGET', key, unpack(fields))
  for i = 1, #fields do stored[fields[i]] = values[i] or nil end
end
texts[#texts + 1] = own
read(texts)
read(names)
local was = {} -- g as it is stored
for i = 1, #names do
  local name = names[i]
  if stored[name] then
    was[name] = tonumber(stored[name])
    g[name] = was[name]
  else
    g[name] = g[name] or 0
  end
end

local time = redis.call('TIME')
time = time[1] * second + time[2]
if g.epoch == 0 then g.epoch, g.shift = time, -time end
if time + g.shift < g.now then g.shift = g.now - time end
local now = time + g.shift

local good = {} -- counts of tenths of a second of the sending clock
for n in string.gmatch(stored.good or '0 0 0 0 0 0 0 0 0 0', '%d+') do good[#good + 1] = tonumber(n) end
local links, distinct = {}, 0
for link in string.gmatch(stored.links or '', '%S+') do
  links[link] = true
  distinct = distinct + 1
end

-- The last answer that began or extended a hold, as text to show.
local cause = stored.cause or ''
local manual = stored.manual or '' -- who began the manual hold, and why
-- The window as people wrote it, and when it is open: pairs of from and to in s of Redis' own TIME. After
-- the last one it is closed.
local window, opens = stored.window or '', stored.opens or ''

-- From when on the window is open, at a time or after it, and until when. Both are of the fleet's clock.
local function windowAt(at)
  if window == '' then return at, never end
  local real = at - g.shift
  local from, to = never, never
  for a, b in string.gmatch(opens, '(%d+):(%d+)') do
    a, b = a * second, b * second
    if real < b then
      from, to = a, b
      break
    end
  end
  if real < g.windowOnce then
    to = from <= g.windowOnce and math.max(to, g.windowOnce) or g.windowOnce
    from = real
  end
  if from == never then return never, never end
  return math.max(at, from + g.shift), to + g.shift
end

-- Links that recently got a 429, or a 503 with Retry-After, which did not begin a hold.
local suspects = {}
for link, status, seq, at, wait, again, checked in string.gmatch(stored.suspects or '', '(%w+):(%d+):(%d+):(%d+):(%d+):(%d):(%d)') do
  suspects[#suspects + 1] = {
    link = link, status = status, seq = tonumber(seq), at = tonumber(at), wait = tonumber(wait),
    again = tonumber(again),     -- 1: the link got the same answer before
    checked = tonumber(checked), -- 1: a later request got a good answer
  }
end

-- The two processes with the latest proven answers, and when they got them.
local proper = {}
for by, at in string.gmatch(stored.proper or '', '(%S+) (%d+)') do proper[#proper + 1] = {by = by, at = tonumber(at)} end

local function noteProper(at)
  local last = proper[1]
  if not last or last.by ~= ARGV[1] then
    last = {by = ARGV[1], at = 0}
    proper = {last, proper[1]}
  end
  last.at = math.max(last.at, at)
end

-- Whether another live process has had a proven answer since the last one of this process.
local function othersProper()
  local mine, others = 0, 0
  for _, p in ipairs(proper) do
    if p.by == ARGV[1] then
      mine = p.at
    elseif redis.call('HEXISTS', key, 'w:' .. p.by) == 1 then
      others = math.max(others, p.at)
    end
  end
  return others > mine
end

local function properText()
  local words = {}
  for i, p in ipairs(proper) do words[i] = string.format('%s %.0f', p.by, p.at) end
  return table.concat(words, ' ')
end

local function suspectsText()
  local words = {}
  for i, s in ipairs(suspects) do
    words[i] = string.format('%s:%s:%.0f:%.0f:%.0f:%d:%d', s.link, s.status, s.seq, s.at, s.wait, s.again, s.checked)
  end
  return table.concat(words, ' ')
end

local function resetFailures()
  g.failures, g.unproven, links, distinct = 0, 0, {}, 0
end

-- How many steps the rate climbs in the time d after a 429.
local function climbed(d)
  local n = math.min(math.floor(d / climbDouble), climbDoublings)
  return (climbDouble * (2 ^ n - 1) + (d - climbDouble * n) * 2 ^ n) / second
end

local function tick()
  local from = math.max(g.now, g.manualUntil, g.throttleUntil)
  g.now = now
  if g.outage == 1 or g.proving == 1 or from >= now then return end
  local d, before = now - from, g.clear
  g.sending = g.sending + d
  g.clear = g.clear + d
  if g.rate >= g.ceiling then return end
  if g.slope > 0 then
    g.rate = g.rate + g.slope * d / second
  else
    g.rate = g.rate + g.ceiling * climbStep * (climbed(g.clear) - climbed(before))
  end
  if g.rate >= g.ceiling then g.rate, g.slope = g.ceiling, 0 end
end

local function turnMeter()
  local t = math.floor(g.sending / meterPart)
  for i = math.max(g.tenth + 1, t - meterParts + 1), t do good[i % meterParts + 1] = 0 end
  g.tenth = t
end

local function addGood(n, age)
  turnMeter()
  local t = math.max(0, math.floor((g.sending - age) / meterPart))
  if t > g.tenth - meterParts then good[t % meterParts + 1] = good[t % meterParts + 1] + n end
end

local function goodRate()
  turnMeter()
  local sum = 0
  for i = 1, meterParts do sum = sum + good[i] end
  local first = math.max(0, g.tenth - meterParts + 1)
  return (sum + math.min(g.unknown, sum)) * second / math.max(g.sending - first * meterPart, meterPart)
end

-- Sending starts again slowly, because all clients of the API wait for it. This counts as a cut.
local function endOutage()
  g.outage = 0
  resetFailures()
  g.rate = math.min(g.rate, recoverFrom * g.ceiling)
  g.slope = (g.ceiling - g.rate) / recoverIn
  g.clear = 0
  g.cutAt, g.cutSeq = now, g.seq
end

-- The longer of a time and a number of slots.
local function within(least, slots)
  if g.rate <= 0 then return least end -- the state has just been lost
  return math.max(least, slots * second / g.rate)
end

-- Notes a good answer to a grant: earlier suspects are then checked.
local function checkSuspects(seq, isControl)
  local kept = {}
  for _, s in ipairs(suspects) do
    if not isControl and now - s.at <= within(manyWithin, manySlots) then
      if s.seq < seq then s.checked = 1 end
      kept[#kept + 1] = s
    end
  end
  suspects = kept
end

-- Adds a suspect, in place of an earlier one of the same link and status.
local function suspect(new)
  local kept = {}
  for _, s in ipairs(suspects) do
    if s.link ~= new.link or s.status ~= new.status then kept[#kept + 1] = s end
  end
  kept[#kept + 1] = new
  if #kept > suspectsMost then table.remove(kept, 1) end
  suspects = kept
end

-- Decides whether the answer to a suspect describes the API and not only the link.
-- Returns how long to hold, or nil. It describes the API
--   * if another link just got the same and no later request got a good answer,
--   * if many links got it, as from an API that lets some requests through, or
--   * if a link got it and then the control request.
-- Two links that both got it before prove nothing, and such a link does not say how long to hold.
local function evidence(new)
  local many = math.max(manyLinks, math.min(suspectsMost, manyPart * goodRate() * within(manyWithin, manySlots) / second))
  local proved, links, wait = false, 1 - new.again, new.again == 0 and new.wait or 0
  for _, s in ipairs(suspects) do
    local age = now - s.at
    if s.link ~= new.link and s.status == new.status and age <= within(manyWithin, manySlots) then
      local pair = s.checked == 0 and s.again + new.again < 2 and age <= within(pairWithin, pairSlots)
      proved = proved or pair or new.link == control
      if s.again == 0 then
        links = links + 1
        wait = math.max(wait, s.at + s.wait - now)
      end
    end
  end
  if proved or new.again == 0 and links >= many then return wait end
end

local function throttled(seq, wait, proof)
  wait = math.min(math.ceil(wait), retryAfterMost)
  if wait <= 0 then
    -- The 429s of requests that were in flight together count once.
    if g.step == 0 then
      g.step, g.stepSeq = throttleFirst, g.seq
    elseif seq > g.stepSeq then
      g.step, g.stepSeq = math.min(2 * g.step, throttleMost), g.seq
    end
    wait = g.step
  end
  if g.throttleUntil <= now then g.throttleSince, g.throttleUntil = now, now end
  g.throttleUntil = math.max(g.throttleUntil, now + wait)
  g.probeDue = math.min(g.throttleUntil, now + throttleProbe)
  g.heldSeq, g.proving = g.seq, 1
  g.clear = 0
  if proof or seq <= g.cutSeq or now - g.cutAt < cutEvery then return end
  local cut = math.min(math.max(cutTo * goodRate(), cutMost * g.rate), cutLeast * g.rate)
  g.rate = math.min(g.rate, math.max(cut, rateLeast, ceilingPartLeast * g.ceiling))
  g.cutAt, g.cutSeq, g.slope = now, g.seq, 0
end

local function beginOutage(why)
  g.outage, g.since = 1, now
  g.pause, g.nextProbe = outageFirst, now + outageFirst
  g.outageSeq = g.seq
  cause = why
end

-- Notes that a probe of an outage failed.
local function probeFailed(why)
  g.pause = math.min(2 * g.pause, outageMost)
  g.nextProbe = now + g.pause
  cause = why
end

local toldFailures = false -- the others should report good answers, if they got any
local function transient(seq, link, why)
  if seq <= g.outageSeq then return end
  g.failures, g.unproven = g.failures + 1, 0
  if g.failures == outageAnswers / 2 then toldFailures = true end
  if distinct < outageLinks and not links[link] then
    links[link] = true
    distinct = distinct + 1
  end
  if g.failures >= outageAnswers and distinct >= outageLinks then beginOutage(why) end
end

-- Whether a grant is the probe that is out. If so, it no longer is.
local function wasProbe(seq)
  if seq == 0 or seq ~= g.probe then return false end
  g.probe = 0
  return true
end

-- Notes that the API works.
local function works()
  resetFailures()
  if g.outage == 1 then endOutage() end
end

-- The rules for each kind of event. seq is the number of the grant.
local happened = {}

function happened.unused(seq)
  if wasProbe(seq) and seq > g.heldSeq then g.probeDue = now end -- the next request is the probe
end
-- A process gives up the slots from one that was due at a time to the last. If no later ones are
-- reserved, others get them.
function happened.back(_, last, due)
  if tonumber(last) == g.seq then g.tat = math.min(g.tat, tonumber(due) + (g.burst - 1) * g.interval) end
end
function happened.proper(seq, count, age, link) -- count answers; seq is the latest
  addGood(tonumber(count), tonumber(age))
  noteProper(now - tonumber(age))
  if seq > g.heldSeq then g.proving = 0 end
  wasProbe(seq)
  works()
  g.step = 0
  if g.throttleUntil > now and seq > g.heldSeq then g.throttleUntil = now end
  checkSuspects(seq, link == control)
end
function happened.unproven(seq, count, age, why) -- count answers; seq is the latest
  addGood(tonumber(count), tonumber(age))
  if seq > g.heldSeq then g.proving = 0 end
  if wasProbe(seq) and g.outage == 1 then probeFailed(why) end
  g.unproven = g.unproven + tonumber(count)
  if g.unproven >= rowBreaks then resetFailures() end
end

-- The key of the process that probed is refused. Another process may have a better one, so the
-- next probe goes soon. This process waits, by its own hold or the pause of its sweep.
function happened.refused(seq, _, _, why)
  local probe = seq == g.probe
  happened.unproven(seq, 1, 0, why)
  if probe and g.outage == 1 then g.nextProbe = now + outageFirst end
end

-- A link gets the same answer as before, during a hold. A probe by it counts as one without an
-- answer, or the hold would never end when no other link is left.
local function throttledAgain(seq, wait, why)
  local held = g.throttleUntil > now
  if (held or g.outage == 1) and wasProbe(seq) and g.outage == 1 then probeFailed(why) end
  if held then
    if wait <= 0 then wait = repeatMost end
    local ends = math.max(g.throttleUntil, now + math.min(wait, repeatMost))
    if g.probeDue >= g.throttleUntil then g.probeDue = ends end
    g.throttleUntil = ends
  end
end
function happened.throttled(seq, wait, about, why) -- about: link, status, and 1 for a repeat
  local link, status, again = string.match(about, '(%w+):(%d+):(%d)')
  wait, again = tonumber(wait), tonumber(again)
  local known, proof = g.throttleUntil > now or g.proving == 1, g.proving == 1 and seq > g.heldSeq
  if again == 1 and (known or g.outage == 1) then return throttledAgain(seq, wait, why) end
  wasProbe(seq)
  if again == 0 then works() end
  if not known then
    local new = {link = link, status = status, seq = seq, at = now, wait = wait, again = again, checked = 0}
    wait = evidence(new)
    if not wait then
      if again == 0 then g.clear = 0 end
      return suspect(new)
    end
  end
  suspects, cause = {}, why
  throttled(seq, wait, proof)
end
function happened.transient(seq, link, _, why)
  addGood(1, 0)
  local probe = wasProbe(seq)
  if g.outage == 0 then transient(seq, link, why) elseif probe then probeFailed(why) end
end
-- The control request failed, which was sent because of unproven answers. If other
-- processes get proven ones, only this process is cut off, and it holds on its own.
function happened.down(seq, _, _, why)
  addGood(1, 0)
  local probe = wasProbe(seq)
  if g.outage == 0 then
    if seq > g.outageSeq and not othersProper() then beginOutage(why) end
  elseif probe then
    probeFailed(why)
  else
    cause = why
  end
end

-- The commands. Each adds an entry to the history.
local function add(entry) add_history(KEYS[2], math.floor(time / 1000), cjson.decode(entry)) end

function happened.hold(_, lasts, entry, by)
  if g.manualUntil <= now then g.manualSince = now end
  g.manualUntil = math.min(now + math.ceil(tonumber(lasts)), never)
  manual = by
  add(entry)
end
function happened.release(_, _, entry)
  add(entry)
  g.manualUntil = math.min(g.manualUntil, now)
  g.throttleUntil = math.min(g.throttleUntil, now)
  g.step, g.probe, g.proving = 0, 0, 0
  if g.outage == 1 then endOutage() end
  g.releases = g.releases + 1
end
function happened.set(_, rate, entry)
  g.override = tonumber(rate)
  add(entry)
end

function happened.window(_, intervals, entry, text)
  window, opens, g.windowOnce = text, intervals, 0
  add(entry)
end
function happened.opens(_, intervals, text) -- the list goes on; nobody did anything
  if text == window then opens = intervals end
end
function happened.once(_, _, entry)
  local from = windowAt(now)
  if from <= now or from == never then return end -- it is open, or was released before
  g.windowOnce = from - g.shift
  add(entry)
end

-- From when on the holds allow a slot, and whether it is a probe.
local function openOfHolds()
  if g.manualUntil > now then return g.manualUntil, false end
  local at, probe, expires = now, false, proofExpires
  if g.throttleUntil > now then at, probe, expires = math.max(at, g.probeDue), true, probeExpires end
  if g.outage == 1 then at, probe, expires = math.max(at, g.nextProbe), true, probeExpires end
  probe = probe or g.proving == 1
  if probe and g.probe ~= 0 then at = math.max(at, g.probeAt + expires) end
  return at, probe
end

-- The same with the window.
local function open()
  local at, probe = openOfHolds()
  return (windowAt(at)), probe
end

-- What a hold depends on, to see whether it changed.
local function holds()
  return {
    g.manualUntil, g.throttleUntil > now, g.proving, g.outage, g.releases, g.override, window, g.windowOnce,
  }
end
