package ratelimit

import "time"

// held is a hold in instants of this process. until is never when not known.
type held struct {
	reason       Reason
	since, until instant
	cause        string
}

// at returns h in times of the wall clock, which shows wall now.
func (h held) at(wall time.Time, now instant) Hold {
	if h.reason == ReasonNone {
		return Hold{}
	}
	out := Hold{Reason: h.reason, Since: wall.Add(h.since - now), Cause: h.cause}
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
		return held{ReasonManual, s.manual.since, s.manual.until, ""}
	}
	var h held
	if s.outage {
		h = held{ReasonOutage, s.since, s.nextProbe, s.cause}
	}
	if s.throttle.covers(now) && (!s.outage || s.throttle.until > h.until) {
		return held{ReasonThrottled, s.throttle.since, s.throttle.until, s.cause}
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
	keyProbeFirst   = time.Second      // the first one after the hold's begin
	keyProbeMost    = 30 * time.Second // to which the time between them doubles
	keyProbeExpires = 20 * time.Second // without an answer another may go
)

// keyHold is the hold of one process whose key the API refuses. One request at
// a time then probes. Whether the key is refused, and not only the links that
// were asked for, is for the caller to find out.
type keyHold struct {
	on        bool
	since     instant
	begun     uint64 // the latest slot handed out when it began
	nextProbe instant
	pause     time.Duration // between probes
	probe     uint64        // the one that is out, or 0
	probeAt   instant

	key   uint64 // how often the key has changed
	cause string
}

// open returns the instant from which on a slot may be handed out.
func (k *keyHold) open(now instant) instant {
	switch {
	case !k.on:
		return now
	case k.probe != 0:
		return max(now, k.nextProbe, k.probeAt+keyProbeExpires)
	}
	return max(now, k.nextProbe)
}

func (k *keyHold) hold(now instant) held {
	switch {
	case !k.on:
		return held{}
	case k.nextProbe <= now || k.probe != 0:
		return held{ReasonUnauthorized, k.since, never, k.cause} // a probe's answer is awaited
	}
	return held{ReasonUnauthorized, k.since, k.nextProbe, k.cause}
}

// granted notes that a slot is handed out: in the hold it is a probe.
func (k *keyHold) granted(now instant, seq uint64) {
	if k.on {
		k.probe, k.probeAt = seq, now
	}
}

// begin opens the hold, or gives one that is open another cause. latest is the
// latest slot handed out.
func (k *keyHold) begin(now instant, latest uint64, cause string) {
	if !k.on {
		*k = keyHold{on: true, since: now, begun: latest, nextProbe: now + keyProbeFirst, pause: keyProbeFirst, key: k.key}
	}
	k.cause = cause
}

func (k *keyHold) end() { k.on, k.probe = false, 0 }

// answer takes in the answer to a slot.
func (k *keyHold) answer(now instant, s Slot, a Answer) {
	if !k.on {
		return
	}
	probe := s.seq != 0 && s.seq == k.probe
	if probe {
		k.probe = 0
	}
	switch {
	case a.Kind == Proper && s.seq > k.begun && s.key == k.key:
		k.end()
	case a.Kind == Unauthorized && probe:
		k.pause = min(2*k.pause, keyProbeMost)
		k.nextProbe, k.cause = now+k.pause, a.cause()
	case a.Kind != Unused && probe: // it tells nothing of the key
		k.nextProbe = now + k.pause
	}
}

// keyChanged lets a probe go at once. The answer to one that is out tells
// nothing any more, as it may have gone with the old key.
func (k *keyHold) keyChanged(now instant) {
	k.key++
	if k.on {
		k.pause, k.nextProbe, k.probe = keyProbeFirst, now, 0
	}
}
