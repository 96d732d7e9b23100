package ratelimit

import (
	"math"
	"time"
)

// The rules' numbers. All times are of the limiter's clock.
const (
	throttleFirst = time.Second      // hold after a 429 without Retry-After
	throttleMost  = 30 * time.Second // to which it doubles
	throttleProbe = 15 * time.Minute // a longer Retry-After is probed this often
	retryAfterMax = 366 * 24 * time.Hour

	cutEvery  = time.Second
	cutFactor = 0.85
	// One cut lowers the rate by a twentieth to a half. The answers of the last
	// second say little when sending has just begun (at the start, after a
	// quiet time), or when the rate is a few a second; and the next cut is only
	// a second away.
	cutMost  = 0.5
	cutLeast = 0.95
	floor    = 0.1        // the rate is never cut below this many a second,
	floorOf  = 1.0 / 1000 // nor below this part of the ceiling

	climbStep   = 0.0025 // of the ceiling, a second
	climbDouble = 20 * time.Second

	outageAnswers = 20
	outageLinks   = 10
	outageFirst   = time.Second
	outageMost    = 10 * time.Second
	recoverFrom   = 0.1 // of the ceiling
	recoverIn     = 14 * time.Second

	unauthorizedFirst = time.Second
	unauthorizedMost  = 30 * time.Second

	probeExpires = 20 * time.Second
	proofExpires = time.Second // of a probe after the end of a throttled hold
)

// instant is a time since an origin of the caller's choice.
type instant = time.Duration

// never is later than all that happens.
const never instant = math.MaxInt64

// governor is the state of adaptation and holds: which rate, and whether
// anything may be sent at all. It has no clock and no lock: each method takes
// the present instant, which must not go back, and moves the state on.
//
// Grants are numbered from 1. "Before the hold" and "after the cut" compare
// these numbers, not times: an answer tells of the world as its request found
// it, and two events may share an instant.
//
// Three holds exist side by side, each with its own end: manual, throttled,
// and trouble (outage or unauthorized, which only an answer ends). Something
// is sent when none stands in the way; [governor.hold] shows the one that
// matters most.
type governor struct {
	ceiling float64 // requests a second
	rate    float64 // requests a second
	now     instant // of the last event
	seq     uint64  // the latest grant

	// Adaptation. Its clock, sending, stands still in a hold: there is nothing
	// to be learnt then.
	sending time.Duration
	clear   time.Duration // sending time since the last 429
	slope   float64       // > 0: recovering from an outage, by this much a second
	good    meter         // answers other than 429
	cutAt   instant
	cutSeq  uint64 // answers to grants up to this one do not cut again

	manual   span
	throttle span
	probeDue instant // a throttle hold may be probed from then on
	step     time.Duration
	stepSeq  uint64 // 429s of grants up to this one do not double step
	heldSeq  uint64 // the latest grant at the last 429
	// proving: the hold is over, but no answer has shown yet that the API takes
	// requests again: a failure, too, may mean that it is overloaded. They go
	// one at a time until then, and a 429 to them says nothing about the rate.
	proving bool

	trouble    Reason // none, outage or unauthorized
	since      instant
	nextProbe  instant
	pause      time.Duration // between the trouble's probes
	troubleSeq uint64        // the latest grant when it began
	probeAgain bool          // the key changed while a probe was out
	keySeq     uint64        // the key worked for this grant: older 401s are history
	outageSeq  uint64        // transient answers of older grants belong to an outage gone by

	probe   uint64 // the probe that is out, or 0
	probeAt instant

	failures int // transient answers one after another
	links    [outageLinks]string
	distinct int // of links in use
}

// span is a hold with an end.
type span struct{ since, until instant }

func (s span) covers(now instant) bool { return now < s.until }

// extend makes s last until the given instant, if that is later.
func (s *span) extend(now, until instant) {
	if !s.covers(now) {
		*s = span{now, until}
	}
	s.until = max(s.until, until)
}

// held is a hold as the governor sees it. until is never when not known.
type held struct {
	reason       Reason
	since, until instant
}

func newGovernor(ceiling float64) governor {
	return governor{ceiling: ceiling, rate: ceiling, cutAt: -cutEvery}
}

// tick moves time on: the rate climbs.
func (g *governor) tick(now instant) {
	from := max(g.now, g.manual.until, g.throttle.until)
	g.now = max(g.now, now)
	if g.trouble != ReasonNone || g.proving || from >= now {
		return
	}
	d := now - from
	g.sending += d
	before := g.clear
	g.clear += d
	if g.rate >= g.ceiling {
		return
	}
	if g.slope > 0 {
		g.rate += g.slope * d.Seconds()
	} else {
		g.rate += g.ceiling * climbStep * (climbed(g.clear) - climbed(before))
	}
	if g.rate >= g.ceiling {
		g.rate, g.slope = g.ceiling, 0
	}
}

// climbed returns how many steps the rate has climbed in the time d without a
// 429: one a second in the first climbDouble, two in the next, four, and so on.
func climbed(d time.Duration) float64 {
	n := min(d/climbDouble, 60) // by then any rate has reached its ceiling
	double := math.Exp2(float64(n))
	return climbDouble.Seconds()*(double-1) + (d-n*climbDouble).Seconds()*double
}

// open returns the instant from which on a slot may be granted, as far as
// holds go: now, a later one, or never, which an answer may change. The slot
// is a probe if probe is true.
func (g *governor) open(now instant) (at instant, probe bool) {
	g.tick(now)
	if g.manual.covers(now) {
		return g.manual.until, false
	}
	at = now
	expires := proofExpires
	if g.throttle.covers(now) {
		at, probe, expires = max(at, g.probeDue), true, probeExpires
	}
	if g.trouble != ReasonNone {
		at, probe, expires = max(at, g.nextProbe), true, probeExpires
	}
	probe = probe || g.proving
	if probe && g.probe != 0 {
		at = max(at, g.probeAt+expires)
	}
	return at, probe
}

// grant counts a slot that is handed out now and returns its number. It must
// be one that [governor.open] allows.
func (g *governor) grant(now instant, probe bool) uint64 {
	g.tick(now)
	g.seq++
	if probe {
		g.probe, g.probeAt = g.seq, now
		g.probeDue = now + throttleProbe
	}
	return g.seq
}

// answer takes in what came of the grant with the number seq.
func (g *governor) answer(now instant, seq uint64, a Answer) {
	g.tick(now)
	probe := seq != 0 && seq == g.probe
	if probe {
		g.probe = 0
	}
	if a.Kind == Unused {
		if probe && seq > g.heldSeq { // it stands open for the next
			g.probeDue = now
		}
		return
	}
	if a.Kind != Throttled {
		g.good.add(g.sending)
		if seq > g.heldSeq && a.Kind != Transient {
			g.proving = false
		}
	}
	if a.Kind == Transient {
		g.transient(now, seq, probe, a.Link)
		return
	}

	// Any other answer shows that the API lives.
	g.failures, g.distinct = 0, 0
	if g.trouble == ReasonOutage {
		g.endOutage(now)
	}
	switch a.Kind {
	case Proper:
		g.step = 0
		if g.trouble == ReasonUnauthorized && seq > g.troubleSeq {
			g.trouble, g.keySeq = ReasonNone, seq
		}
		if g.throttle.covers(now) && seq > g.heldSeq {
			g.throttle.until = now
		}
	case Throttled:
		g.throttled(now, seq, a)
		if probe { // it says nothing about the key
			g.nextProbe = now + g.pause
		}
	case Unauthorized:
		g.unauthorized(now, seq, probe)
	}
}

func (g *governor) throttled(now instant, seq uint64, a Answer) {
	wait := min(a.RetryAfter, retryAfterMax)
	if !a.HasRetryAfter || wait <= 0 {
		// The 429s of requests that were under way together count as one.
		if g.step == 0 {
			g.step, g.stepSeq = throttleFirst, g.seq
		} else if seq > g.stepSeq {
			g.step, g.stepSeq = min(2*g.step, throttleMost), g.seq
		}
		wait = g.step
	}
	g.throttle.extend(now, now+wait)
	g.probeDue = min(g.throttle.until, now+throttleProbe)
	proof := g.proving && seq > g.heldSeq
	g.heldSeq, g.proving = g.seq, true
	g.clear = 0

	if proof || seq <= g.cutSeq || now-g.cutAt < cutEvery {
		return
	}
	cut := cutFactor * g.good.rate(g.sending)
	cut = min(max(cut, cutMost*g.rate), cutLeast*g.rate)
	g.rate = min(g.rate, max(cut, floor, floorOf*g.ceiling))
	g.cutAt, g.cutSeq, g.slope = now, g.seq, 0
}

func (g *governor) unauthorized(now instant, seq uint64, probe bool) {
	switch {
	case g.trouble != ReasonUnauthorized:
		if seq <= g.keySeq {
			return
		}
		g.begin(now, ReasonUnauthorized, unauthorizedFirst)
	case probe && g.probeAgain:
		g.nextProbe = now
	case probe:
		g.pause = min(2*g.pause, unauthorizedMost)
		g.nextProbe = now + g.pause
	}
	g.probeAgain = false
}

func (g *governor) transient(now instant, seq uint64, probe bool, link string) {
	if g.trouble != ReasonNone {
		if !probe {
			return
		}
		if g.trouble == ReasonOutage {
			g.pause = min(2*g.pause, outageMost)
		}
		g.nextProbe = now + g.pause
		return
	}
	if seq <= g.outageSeq {
		return
	}
	g.failures++
	if g.distinct < outageLinks && !g.failed(link) {
		g.links[g.distinct] = link
		g.distinct++
	}
	if g.failures >= outageAnswers && g.distinct >= outageLinks {
		g.begin(now, ReasonOutage, outageFirst)
		g.outageSeq = g.seq
	}
}

func (g *governor) failed(link string) bool {
	for _, l := range g.links[:g.distinct] {
		if l == link {
			return true
		}
	}
	return false
}

func (g *governor) begin(now instant, trouble Reason, pause time.Duration) {
	g.trouble, g.since = trouble, now
	g.pause, g.nextProbe = pause, now+pause
	g.troubleSeq = g.seq
	g.probeAgain = false
}

// endOutage lets sending begin again slowly: an API that comes back finds all
// its clients waiting.
func (g *governor) endOutage(now instant) {
	g.trouble = ReasonNone
	g.failures, g.distinct = 0, 0
	g.rate = min(g.rate, recoverFrom*g.ceiling)
	g.slope = (g.ceiling - g.rate) / recoverIn.Seconds()
	g.clear = 0
	g.cutAt, g.cutSeq = now, g.seq // this was a cut already
}

// holdManual holds until the given instant, or for ever (never). A second
// call replaces the first's end.
func (g *governor) holdManual(now, until instant) {
	g.tick(now)
	g.manual.extend(now, until)
	g.manual.until = until
}

// release ends all holds.
func (g *governor) release(now instant) {
	g.tick(now)
	g.manual.until = min(g.manual.until, now)
	g.throttle.until = min(g.throttle.until, now)
	g.step, g.proving = 0, false
	g.probe = 0
	if g.trouble == ReasonOutage {
		g.endOutage(now)
	}
	g.trouble = ReasonNone
}

// probeNow lets an unauthorized hold probe at once. A probe that is out may
// have gone with the old key, so if it fails the next does not wait.
func (g *governor) probeNow(now instant) {
	g.tick(now)
	if g.trouble == ReasonUnauthorized {
		g.pause, g.nextProbe = unauthorizedFirst, now
		g.probeAgain = g.probe != 0
	}
}

// hold returns the hold that stands in the way now: a manual one, else the
// one that lasts longer.
func (g *governor) hold(now instant) held {
	if g.manual.covers(now) {
		return held{ReasonManual, g.manual.since, g.manual.until}
	}
	var h held
	if g.trouble != ReasonNone {
		h = held{g.trouble, g.since, g.nextProbe}
	}
	if g.throttle.covers(now) && (h.reason == ReasonNone || g.throttle.until > h.until) {
		return held{ReasonThrottled, g.throttle.since, g.throttle.until}
	}
	if h.until <= now || g.probe != 0 {
		h.until = never // a probe's answer is awaited
	}
	return h
}

// change returns the next instant after now at which time alone changes the
// hold, or never.
func (g *governor) change(now instant) instant {
	at := never
	if g.manual.covers(now) {
		at = min(at, g.manual.until)
	}
	if g.throttle.covers(now) {
		at = min(at, g.throttle.until)
	}
	return at
}

// meter counts events in the last second of a clock, in tenths.
type meter struct {
	counts [10]uint32
	tenth  int64 // the one that is being counted
}

const tenth = 100 * time.Millisecond

func (m *meter) add(now time.Duration) {
	m.turn(now)
	m.counts[m.tenth%int64(len(m.counts))]++
}

// rate returns the events a second in the last second, or since the clock's
// beginning if that is less.
func (m *meter) rate(now time.Duration) float64 {
	m.turn(now)
	sum := uint32(0)
	for _, n := range m.counts {
		sum += n
	}
	first := max(0, m.tenth-int64(len(m.counts))+1)
	counted := max(now-time.Duration(first)*tenth, tenth)
	return float64(sum) / counted.Seconds()
}

func (m *meter) turn(now time.Duration) {
	t := int64(now / tenth)
	if t-m.tenth >= int64(len(m.counts)) {
		clear(m.counts[:])
	} else {
		for i := m.tenth + 1; i <= t; i++ {
			m.counts[i%int64(len(m.counts))] = 0
		}
	}
	m.tenth = t
}
