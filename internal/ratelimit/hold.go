package ratelimit

import "time"

// held is a hold in instants of this process. until is never when not known.
type held struct {
	reason       Reason
	since, until instant
	cause        string
	own          bool // of this process alone
}

// at returns h in times of the wall clock, which shows wall now.
func (h held) at(wall time.Time, now instant) Hold {
	if h.reason == ReasonNone {
		return Hold{}
	}
	out := Hold{Reason: h.reason, Since: wall.Add(h.since - now), Cause: h.cause, Own: h.own}
	if h.until != never {
		out.Until = wall.Add(h.until - now)
	}
	return out
}

// span is a hold with an end.
type span struct{ since, until instant }

func (s span) covers(now instant) bool { return now < s.until }

// fleetState is what the script told last of the fleet, in instants of this
// process. The rules by which it changes are in fleet_rules.lua alone.
type fleetState struct {
	ceiling, rate float64 // requests a second
	interval      micros  // between slots

	manual, throttle span
	outage           bool
	since, nextProbe instant // of the outage
	probing          bool    // a probe is out
	opens            instant // a slot may be granted from then on, as far as holds go
	cause            string  // of the outage or throttled hold

	// untilOutage is how many more failures may be an outage.
	untilOutage int
}

// hold returns the hold that stands in the way now: a manual one, else the
// one that lasts longer.
func (s *fleetState) hold(now instant) held {
	if s.manual.covers(now) {
		return held{reason: ReasonManual, since: s.manual.since, until: s.manual.until}
	}
	var h held
	if s.outage {
		h = held{ReasonOutage, s.since, s.nextProbe, s.cause, false}
	}
	if s.throttle.covers(now) && (!s.outage || s.throttle.until > h.until) {
		return held{ReasonThrottled, s.throttle.since, s.throttle.until, s.cause, false}
	}
	if h.until <= now || s.probing {
		h.until = never // a probe's answer is awaited
	}
	return h
}

// change returns the next instant after now at which time alone changes the
// hold, or never.
func (s *fleetState) change(now instant) instant {
	at := never
	if s.manual.covers(now) {
		at = min(at, s.manual.until)
	}
	if s.throttle.covers(now) {
		at = min(at, s.throttle.until)
	}
	return at
}

// The probes of a process's own hold.
const (
	ownProbeFirst   = time.Second      // the first one after the hold's begin
	keyProbeMost    = 30 * time.Second // to which the time between them doubles
	outageProbeMost = 10 * time.Second // the same in an outage
	ownProbeExpires = 20 * time.Second // without an answer another may go
)

// ownHold is the hold of one process: the API refuses its key, or it gets no
// answers of the API while others do. One request at a time then probes. Whether
// it is so, and not the trouble of the links that were asked for, is for the
// caller to find out.
type ownHold struct {
	reason    Reason // none, unauthorized or outage
	since     instant
	begun     uint64 // the latest slot handed out when it began
	nextProbe instant
	pause     time.Duration // between probes
	probe     uint64        // the one that is out, or 0
	probeAt   instant

	key   uint64 // how often the key has changed
	cause string
}

func (o *ownHold) on() bool { return o.reason != ReasonNone }

// open returns the instant from which on a slot may be handed out.
func (o *ownHold) open(now instant) instant {
	switch {
	case !o.on():
		return now
	case o.probe != 0:
		return max(now, o.nextProbe, o.probeAt+ownProbeExpires)
	}
	return max(now, o.nextProbe)
}

func (o *ownHold) hold(now instant) held {
	switch {
	case !o.on():
		return held{}
	case o.nextProbe <= now || o.probe != 0:
		return held{o.reason, o.since, never, o.cause, true} // a probe's answer is awaited
	}
	return held{o.reason, o.since, o.nextProbe, o.cause, true}
}

// granted notes that a slot is handed out: in the hold it is a probe.
func (o *ownHold) granted(now instant, seq uint64) {
	if o.on() {
		o.probe, o.probeAt = seq, now
	}
}

// begin opens the hold, or gives one that is open another cause. latest is the
// latest slot handed out.
func (o *ownHold) begin(now instant, latest uint64, reason Reason, cause string) {
	if !o.on() {
		*o = ownHold{reason: reason, since: now, begun: latest, nextProbe: now + ownProbeFirst, pause: ownProbeFirst, key: o.key}
	}
	o.cause = cause
}

func (o *ownHold) end() { o.reason, o.probe = ReasonNone, 0 }

// answer takes in the answer to a slot.
func (o *ownHold) answer(now instant, s Slot, a Answer) {
	if !o.on() {
		return
	}
	probe := s.seq != 0 && s.seq == o.probe
	if probe {
		o.probe = 0
	}
	most, failed := keyProbeMost, a.Kind == Unauthorized
	if o.reason == ReasonOutage {
		most, failed = outageProbeMost, a.Kind == Unproven || a.Kind == Transient || a.Kind == Down
	}
	switch {
	case a.Kind == Proper && s.seq > o.begun && s.key == o.key:
		o.end()
	case failed && probe:
		o.pause = min(2*o.pause, most)
		o.nextProbe, o.cause = now+o.pause, a.cause()
	case a.Kind != Unused && probe: // it tells nothing of the hold's reason
		o.nextProbe = now + o.pause
	}
}

// keyChanged lets a probe of the key go at once. The answer to one that is out
// tells nothing any more, as it may have gone with the old key.
func (o *ownHold) keyChanged(now instant) {
	o.key++
	if o.reason == ReasonUnauthorized {
		o.pause, o.nextProbe, o.probe = ownProbeFirst, now, 0
	}
}
