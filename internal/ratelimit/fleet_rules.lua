-- The rules by which a fleet adapts its rate and holds, but for the unauthorized
-- hold, which is each process's own. fleet_reserve.lua follows and uses them.
--
-- Grants are numbered from 1. "Before the hold" and "after the cut" compare these
-- numbers, not times: an answer tells of the world as its request found it.
--
-- Three holds exist side by side, each with its own end: manual, throttled, and
-- outage, which only an answer ends.
--
-- An answer that the API may not have given (unproven) shows neither that the API
-- works nor that it does not. A 429 may be the trouble of one link: until another
-- link gets one, too, its link is only suspected.
--
-- KEYS[1] is a hash: a field for each number in g below; good, links, suspects and
-- cause (text); and w:<id> for each process. Instants are µs of a clock that begins
-- near 0 with the key, so that doubles keep fractions of a µs. It follows Redis'
-- TIME, but stands where TIME goes back, as at a failover.
local key = KEYS[1]
local second = 1000000
local never = 9007199254740991 -- 2^53-1

-- The rules' numbers. Times are in µs.
local throttleFirst = second       -- hold after a 429 without Retry-After
local throttleMost = 30 * second   -- to which it doubles
local throttleProbe = 900 * second -- a longer Retry-After is probed this often
local retryAfterMost = 366 * 86400 * second

-- A throttled hold needs evidence from more links than one. Times are the longer
-- of so long and so many slots: at a low rate answers are far apart.
local pairWithin, pairSlots = second, 4      -- two links with nothing good in between,
local manyWithin, manySlots = 2 * second, 20 -- or several links, whatever came between:
local manyLinks, manyPart = 3, 0.01          -- so many, and such a part of the good answers
local suspectsMost = 20
local repeatMost = second -- a link that had its 429 before prolongs a hold by no more
local control = 'control' -- the link of a request that asks only how the API is

local cutEvery = second
local cutTo = 0.85      -- of the good answers of the last second
-- One cut lowers the rate by a twentieth to a half. The answers of the last
-- second say little when sending has just begun (at the start, after a quiet
-- time), or when the rate is a few a second; and the next cut is only a second
-- away.
local cutMost, cutLeast = 0.5, 0.95
local rateLeast = 0.1            -- the rate is never cut below this many a second,
local ceilingPartLeast = 0.001   -- nor below this part of the ceiling

local climbStep = 0.0025         -- of the ceiling, a second
local climbDouble = 20 * second  -- without a 429, after which the step doubles

local outageAnswers, outageLinks = 20, 10 -- failures one after another, of so many links or more
local rowBreaks = 100 -- unproven answers between two failures: they are not one after another
local outageFirst, outageMost = second, 10 * second -- between an outage's probes
local recoverFrom, recoverIn = 0.1, 14    -- of the ceiling; seconds

local probeExpires = 20 * second -- without an answer another may go
local proofExpires = second      -- the same for a request after the end of a throttled hold

local meterParts, meterPart = 10, 100000 -- good answers are counted in so many parts of so long

-- The state of a fleet that begins.
local g = {
  epoch = 0, shift = 0, now = 0, seq = 0,
  tat = 0, interval = 0, burst = 1, ceiling = 0, rate = 0, override = 0,
  -- Adaptation. Its clock, sending, stands still in a hold: there is nothing to
  -- be learnt then. clear is its time since the last 429. slope: recovering from
  -- an outage, by so much a second. Answers to grants up to cutSeq do not cut again.
  sending = 0, clear = 0, slope = 0, tenth = 0, cutAt = -cutEvery, cutSeq = 0,
  manualSince = 0, manualUntil = 0,
  -- A throttled hold may be probed from probeDue on. 429s of grants up to stepSeq
  -- do not double step. heldSeq is the latest grant at the last 429. proving: the
  -- hold is over, but no answer has shown yet that the API takes requests again: a
  -- failure, too, may mean that it is overloaded. They go one at a time until
  -- then, and a 429 to them says nothing about the rate.
  throttleSince = 0, throttleUntil = 0, probeDue = 0, step = 0, stepSeq = 0, heldSeq = 0, proving = 0,
  -- Failures of grants up to outageSeq belong to an outage gone by.
  outage = 0, since = 0, nextProbe = 0, pause = 0, outageSeq = 0,
  probe = 0, probeAt = 0, -- the probe that is out, or 0
  failures = 0, unproven = 0, -- in a row; and since the last of them
  releases = 0,
}
local stored, workers = {}, {}
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do
  if string.sub(flat[i], 1, 2) == 'w:' then
    workers[string.sub(flat[i], 3)] = flat[i + 1]
  else
    stored[flat[i]] = flat[i + 1]
  end
end
local was = {} -- g as it is stored
for name in pairs(g) do
  if stored[name] then
    was[name] = tonumber(stored[name])
    g[name] = was[name]
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

-- The last answer that began a hold or kept it up, for people.
local cause = stored.cause or ''
-- Links that were answered 429, or 503 with Retry-After, of late, and held nobody.
local suspects = {}
for link, status, seq, at, wait, again, checked in string.gmatch(stored.suspects or '', '(%w+):(%d+):(%d+):(%d+):(%d+):(%d):(%d)') do
  suspects[#suspects + 1] = {
    link = link, status = status, seq = tonumber(seq), at = tonumber(at), wait = tonumber(wait),
    again = tonumber(again),     -- 1: the link had the same answer before
    checked = tonumber(checked), -- 1: a later request was answered well
  }
end

-- When the two processes that had them last had their latest proven answers: the
-- process and the instant of each.
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

-- Whether another process that is alive has had a proven answer since the last one
-- of this process.
local function othersProper()
  local mine, others = 0, 0
  for _, p in ipairs(proper) do
    if p.by == ARGV[1] then
      mine = p.at
    elseif workers[p.by] then
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

local function calm() -- forgets the failures one after another
  g.failures, g.unproven, links, distinct = 0, 0, {}, 0
end

-- How many steps the rate has climbed d after the last 429.
local function climbed(d)
  local n = math.min(math.floor(d / climbDouble), 60)
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

-- A rate that was not cut stays at the ceiling when that moves.
local function setCeiling(ceiling)
  if g.rate >= g.ceiling or g.rate > ceiling then g.rate = ceiling end
  g.ceiling = ceiling
end

local function turn()
  local t = math.floor(g.sending / meterPart)
  for i = math.max(g.tenth + 1, t - meterParts + 1), t do good[i % meterParts + 1] = 0 end
  g.tenth = t
end

local function addGood(n, age)
  turn()
  local t = math.max(0, math.floor((g.sending - age) / meterPart))
  if t > g.tenth - meterParts then good[t % meterParts + 1] = good[t % meterParts + 1] + n end
end

local function goodRate()
  turn()
  local sum = 0
  for i = 1, meterParts do sum = sum + good[i] end
  local first = math.max(0, g.tenth - meterParts + 1)
  return sum * second / math.max(g.sending - first * meterPart, meterPart)
end

-- Sending begins again slowly: an API that comes back finds all its clients
-- waiting. This is a cut, too.
local function endOutage()
  g.outage = 0
  calm()
  g.rate = math.min(g.rate, recoverFrom * g.ceiling)
  g.slope = (g.ceiling - g.rate) / recoverIn
  g.clear = 0
  g.cutAt, g.cutSeq = now, g.seq
end

-- The longer of a time and of so many slots.
local function within(least, slots)
  if g.rate <= 0 then return least end -- the state was lost a moment ago
  return math.max(least, slots * second / g.rate)
end

-- Notes that a grant was answered well: what was suspected before it is checked.
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

-- Remembers a suspect, in place of what the same link was suspected of before.
local function suspect(new)
  local kept = {}
  for _, s in ipairs(suspects) do
    if s.link ~= new.link or s.status ~= new.status then kept[#kept + 1] = s end
  end
  kept[#kept + 1] = new
  if #kept > suspectsMost then table.remove(kept, 1) end
  suspects = kept
end

-- Whether the answer to a suspect is the API's state: how long to hold, or nil
-- while it may be the link's own trouble. It is the API's if another link got the
-- same a moment ago and no later request was answered well since; if several
-- links got it, as from an API that lets a part of the requests through; or if a
-- link and then the control request got it. A link that had it before proves
-- nothing with another such link, and does not say how long to hold.
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
    -- The 429s of requests that were under way together count as one.
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

-- A probe of an outage failed.
local function probeFailed(why)
  g.pause = math.min(2 * g.pause, outageMost)
  g.nextProbe = now + g.pause
  cause = why
end

local function transient(seq, link, why)
  if seq <= g.outageSeq then return end
  g.failures, g.unproven = g.failures + 1, 0
  if distinct < outageLinks and not links[link] then
    links[link] = true
    distinct = distinct + 1
  end
  if g.failures >= outageAnswers and distinct >= outageLinks then beginOutage(why) end
end

-- Whether a grant is the probe that is out, which is then out no more.
local function wasProbe(seq)
  if seq == 0 or seq ~= g.probe then return false end
  g.probe = 0
  return true
end

-- An answer shows that the API lives.
local function lives()
  calm()
  if g.outage == 1 then endOutage() end
end

-- What happened, by kind: seq is the grant's number; a, b and text are the kind's own.
local happened = {}

function happened.unused(seq)
  if wasProbe(seq) and seq > g.heldSeq then g.probeDue = now end -- it stands open for the next
end
function happened.proper(seq, count, age, link) -- seq: of the latest
  addGood(tonumber(count), tonumber(age))
  noteProper(now - tonumber(age))
  if seq > g.heldSeq then g.proving = 0 end
  wasProbe(seq)
  lives()
  g.step = 0
  if g.throttleUntil > now and seq > g.heldSeq then g.throttleUntil = now end
  checkSuspects(seq, link == control)
end
function happened.unproven(seq, count, age, why) -- seq: of the latest
  addGood(tonumber(count), tonumber(age))
  if seq > g.heldSeq then g.proving = 0 end
  if wasProbe(seq) and g.outage == 1 then probeFailed(why) end
  g.unproven = g.unproven + tonumber(count)
  if g.unproven >= rowBreaks then calm() end
end

-- In a hold a link is answered as it was before. If the request was to prove that
-- the hold is over, it is taken for one without an answer: were the hold to begin
-- again, and no other link were left, it would never end.
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
  if again == 0 then lives() end
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
-- The control request failed, which was sent because of unproven answers. While
-- others get proven ones it is that process alone which is cut off: it holds by
-- itself.
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
function happened.hold(_, lasts)
  if g.manualUntil <= now then g.manualSince = now end
  g.manualUntil = math.min(now + math.ceil(tonumber(lasts)), never)
end
function happened.release()
  g.manualUntil = math.min(g.manualUntil, now)
  g.throttleUntil = math.min(g.throttleUntil, now)
  g.step, g.probe, g.proving = 0, 0, 0
  if g.outage == 1 then endOutage() end
  g.releases = g.releases + 1
end
function happened.set(_, rate) g.override = tonumber(rate) end

-- From when on a slot may be granted, as far as holds go; and if it is a probe.
local function open()
  if g.manualUntil > now then return g.manualUntil, false end
  local at, probe, expires = now, false, proofExpires
  if g.throttleUntil > now then at, probe, expires = math.max(at, g.probeDue), true, probeExpires end
  if g.outage == 1 then at, probe, expires = math.max(at, g.nextProbe), true, probeExpires end
  probe = probe or g.proving == 1
  if probe and g.probe ~= 0 then at = math.max(at, g.probeAt + expires) end
  return at, probe
end

-- What the holds are, for comparison.
local function holds()
  return table.concat({
    g.manualUntil, g.throttleUntil > now and 1 or 0, g.proving, g.outage, g.releases, g.override,
  }, ' ')
end
