-- The rules of governor.go for the whole fleet, but for the unauthorized hold,
-- which is each process's own. fleet_reserve.lua follows and uses them.
--
-- KEYS[1] is a hash: a field for each number in g below, good and links (text),
-- and w:<id> for each process. Instants are µs of a clock that begins near 0
-- with the key, so that doubles keep fractions of a µs. It follows Redis' TIME,
-- but stands where TIME goes back, as at a failover.
local key = KEYS[1]
local second = 1000000
local never = 9007199254740991 -- 2^53-1

-- The state of a fleet that begins.
local g = {
  epoch = 0, shift = 0, now = 0, seq = 0,
  tat = 0, interval = 0, burst = 1, ceiling = 0, rate = 0, override = 0,
  sending = 0, clear = 0, slope = 0, tenth = 0, cutAt = -second, cutSeq = 0,
  manualSince = 0, manualUntil = 0,
  throttleSince = 0, throttleUntil = 0, probeDue = 0, step = 0, stepSeq = 0, heldSeq = 0, proving = 0,
  outage = 0, since = 0, nextProbe = 0, pause = 0, outageSeq = 0,
  probe = 0, probeAt = 0, failures = 0, releases = 0,
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

local good = {} -- counts of tenths of the sending clock, as meter in governor.go
for n in string.gmatch(stored.good or '0 0 0 0 0 0 0 0 0 0', '%d+') do good[#good + 1] = tonumber(n) end
local links, distinct = {}, 0
for link in string.gmatch(stored.links or '', '%S+') do
  links[link] = true
  distinct = distinct + 1
end

local function calm() -- forgets the failures one after another
  g.failures, links, distinct = 0, {}, 0
end

-- How many steps the rate has climbed d after the last 429.
local function climbed(d)
  local n = math.min(math.floor(d / (20 * second)), 60)
  return 20 * (2 ^ n - 1) + (d / second - 20 * n) * 2 ^ n
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
    g.rate = g.rate + g.ceiling * 0.0025 * (climbed(g.clear) - climbed(before))
  end
  if g.rate >= g.ceiling then g.rate, g.slope = g.ceiling, 0 end
end

-- A rate that was not cut stays at the ceiling when that moves.
local function setCeiling(ceiling)
  if g.rate >= g.ceiling or g.rate > ceiling then g.rate = ceiling end
  g.ceiling = ceiling
end

local function turn()
  local t = math.floor(g.sending / 100000)
  for i = math.max(g.tenth + 1, t - 9), t do good[i % 10 + 1] = 0 end
  g.tenth = t
end

local function addGood(n, age)
  turn()
  local t = math.max(0, math.floor((g.sending - age) / 100000))
  if t > g.tenth - 10 then good[t % 10 + 1] = good[t % 10 + 1] + n end
end

local function goodRate()
  turn()
  local sum = 0
  for i = 1, 10 do sum = sum + good[i] end
  local first = math.max(0, g.tenth - 9)
  return sum * second / math.max(g.sending - first * 100000, 100000)
end

local function endOutage()
  g.outage = 0
  calm()
  g.rate = math.min(g.rate, 0.1 * g.ceiling)
  g.slope = (g.ceiling - g.rate) / 14
  g.clear = 0
  g.cutAt, g.cutSeq = now, g.seq
end

local function throttled(seq, wait, proof)
  wait = math.min(math.ceil(wait), 366 * 86400 * second)
  if wait <= 0 then
    if g.step == 0 then
      g.step, g.stepSeq = second, g.seq
    elseif seq > g.stepSeq then
      g.step, g.stepSeq = math.min(2 * g.step, 30 * second), g.seq
    end
    wait = g.step
  end
  if g.throttleUntil <= now then g.throttleSince, g.throttleUntil = now, now end
  g.throttleUntil = math.max(g.throttleUntil, now + wait)
  g.probeDue = math.min(g.throttleUntil, now + 900 * second)
  g.heldSeq, g.proving = g.seq, 1
  g.clear = 0
  if proof or seq <= g.cutSeq or now - g.cutAt < second then return end
  local cut = math.min(math.max(0.85 * goodRate(), 0.5 * g.rate), 0.95 * g.rate)
  g.rate = math.min(g.rate, math.max(cut, 0.1, g.ceiling / 1000))
  g.cutAt, g.cutSeq, g.slope = now, g.seq, 0
end

local function transient(seq, probe, link)
  if g.outage == 1 then
    if probe then
      g.pause = math.min(2 * g.pause, 10 * second)
      g.nextProbe = now + g.pause
    end
    return
  end
  if seq <= g.outageSeq then return end
  g.failures = g.failures + 1
  if distinct < 10 and not links[link] then
    links[link] = true
    distinct = distinct + 1
  end
  if g.failures >= 20 and distinct >= 10 then
    g.outage, g.since = 1, now
    g.pause, g.nextProbe = second, now + second
    g.outageSeq = g.seq
  end
end

-- What happened, by kind: seq is the grant's number; a and b are the kind's own.
local happened = {}

local function answered(seq, transientToo)
  if seq > g.heldSeq and not transientToo then g.proving = 0 end
  local probe = seq ~= 0 and seq == g.probe
  if probe then g.probe = 0 end
  if not transientToo then
    calm()
    if g.outage == 1 then endOutage() end
  end
  return probe
end

function happened.unused(seq)
  if seq ~= 0 and seq == g.probe then
    g.probe = 0
    if seq > g.heldSeq then g.probeDue = now end
  end
end
function happened.proper(seq, count, age) -- seq: of the latest
  addGood(tonumber(count), tonumber(age))
  answered(seq)
  g.step = 0
  if g.throttleUntil > now and seq > g.heldSeq then g.throttleUntil = now end
end
function happened.throttled(seq, wait)
  local proof = g.proving == 1 and seq > g.heldSeq
  answered(seq)
  throttled(seq, tonumber(wait), proof)
end
function happened.unauthorized(seq)
  addGood(1, 0)
  answered(seq)
end
function happened.transient(seq, link)
  addGood(1, 0)
  transient(seq, answered(seq, true), link)
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
  local at, probe, expires = now, false, second
  if g.throttleUntil > now then at, probe, expires = math.max(at, g.probeDue), true, 20 * second end
  if g.outage == 1 then at, probe, expires = math.max(at, g.nextProbe), true, 20 * second end
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
