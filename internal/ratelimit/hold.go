package ratelimit

import "time"

// held is a hold in instants of this process. until is never if it is not known.
type held struct {
	reason       Reason
	since, until instant
	cause        string
	own          bool // of this process alone
}

// at converts h to wall-clock times.
func (h held) at(now instant) Hold {
	if h.reason == ReasonNone {
		return Hold{}
	}
	zero := time.Now().Add(-now)
	out := Hold{Reason: h.reason, Since: zero.Add(h.since), Cause: h.cause, Own: h.own}
	if h.until != never {
		out.Until = zero.Add(h.until)
	}
	return out
}

// closed returns the hold outside the window, if it is closed.
func (r *reply) closed(c *clock, now instant) (h held, closed bool) {
	from, to := c.instant(r.windowFrom), c.instant(r.windowTo)
	if r.windowTo == 0 { // no reply yet
		return held{}, false
	}
	if now >= to { // since the last reply
		return held{reason: ReasonWindow, since: to, until: c.instant(r.windowNext), cause: windowOf(r.window).String()}, true
	}
	if now >= from || r.windowFrom <= r.now {
		return held{}, false
	}
	return held{reason: ReasonWindow, since: now, until: from, cause: windowOf(r.window).String()}, true
}

// hold returns the fleet's hold: a manual one, else the window's, else the one that lasts longer.
func (r *reply) hold(c *clock, now instant) held {
	if until := c.instant(r.manualUntil); now < until {
		return held{reason: ReasonManual, since: c.instant(r.manualSince), until: until, cause: r.manual}
	}
	if h, closed := r.closed(c, now); closed {
		return h
	}
	var h held
	if r.outage {
		h = held{ReasonOutage, c.instant(r.since), c.instant(r.nextProbe), r.cause, false}
	}
	if until := c.instant(r.throttleUntil); now < until && (!r.outage || until > h.until) {
		return held{ReasonThrottled, c.instant(r.throttleSince), until, r.cause, false}
	}
	if h.until <= now || r.probeSeq != 0 {
		h.until = never // until the probe is answered
	}
	return h
}

// holdEnd returns the next instant at which time begins or ends a hold of the fleet, or never.
func (r *reply) holdEnd(c *clock, now instant) instant {
	at := never
	for _, until := range [...]instant{c.instant(r.manualUntil), c.instant(r.throttleUntil), c.instant(r.windowFrom), c.instant(r.windowTo)} {
		if now < until {
			at = min(at, until)
		}
	}
	return at
}

// The probes of a process's own hold. Those of an outage are timed as in fleet_rules.lua.
const (
	ownProbeFirst   = time.Second      // from the beginning of the hold to the first
	keyProbeMost    = 30 * time.Second // the time between probes doubles up to this,
	outageProbeMost = 10 * time.Second // or to this in an outage
	ownProbeExpires = 20 * time.Second // without an answer another may go then
)

// ownHold is a hold of one process: the API refuses its key, or does not answer it. One request at
// a time then probes. The caller rules out trouble of single links.
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

// open returns from when on a slot may be handed out.
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
	if !o.on() {
		return held{}
	}
	until := o.nextProbe
	if until <= now || o.probe != 0 {
		until = never // until the probe is answered
	}
	return held{o.reason, o.since, until, o.cause, true}
}

// granted notes that a slot is handed out. In a hold it is a probe.
func (o *ownHold) granted(now instant, seq uint64) {
	if o.on() {
		o.probe, o.probeAt = seq, now
	}
}

// begin begins a hold or changes its cause. latest is the latest slot handed out.
func (o *ownHold) begin(now instant, latest uint64, reason Reason, cause string) {
	if !o.on() {
		*o = ownHold{reason: reason, since: now, begun: latest, nextProbe: now + ownProbeFirst, pause: ownProbeFirst, key: o.key}
	}
	o.cause = cause
}

func (o *ownHold) end() { o.reason, o.probe = ReasonNone, 0 }

// answer records the answer to a slot.
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
	case a.Kind == OK && s.seq > o.begun && s.key == o.key:
		o.end()
	case failed && probe:
		o.pause = min(2*o.pause, most)
		o.nextProbe, o.cause = now+o.pause, a.cause()
	case a.Kind != Unused && probe: // it says nothing about the reason
		o.nextProbe = now + o.pause
	}
}

// keyChanged allows a probe of the key at once. An answer to the old key no longer counts.
func (o *ownHold) keyChanged(now instant) {
	o.key++
	if o.reason == ReasonUnauthorized {
		o.pause, o.nextProbe, o.probe = ownProbeFirst, now, 0
	}
}
