package ratelimit

import (
	"math"
	"math/rand/v2"
	"time"
)

const (
	// speedWindow is the time over which a process's own speed is averaged.
	speedWindow = 100 * time.Millisecond
	// trustMost is the part of the expected use that is reserved before anyone waits.
	// It is halved when slots were wasted, and grows back by trustStep per call.
	trustMost, trustStep = 0.9, 0.02
	// aloneTrust is the same for a process alone. It need not leave slots to others.
	aloneTrust = 2

	// Where the limit is far above what the fleet sends, a process reserves at least
	// spareLeast slots for a stretch of time, and keeps about spareKept of them.
	spareLeast, spareKept = 200, 10_000

	// ownShare is the part of its Rate that a process uses: slots may come a little early.
	ownShare = 0.9925

	// aloneMost is the most slots that a process alone reserves for a call. A limit that gives more
	// within the horizon is far above what is sent: see spare.
	aloneMost = 1000
	// aloneLeast is how many slots such a process reserves even if it has fewer requests in hand: at low
	// rates more work comes before the next call.
	aloneLeast = 20
)

// usage is how a process uses its slots.
type usage struct {
	sent  int           // requests since the last call
	speed float64       // requests per second
	took  time.Duration // a request, on average
	trust float64       // the part of them that is reserved before anyone waits
}

// average adds the time since the last call to the average.
func (u *usage) average(passed time.Duration) {
	if s := passed.Seconds(); s > 0 {
		u.speed -= math.Expm1(-s/speedWindow.Seconds()) * (float64(u.sent)/s - u.speed)
	}
	u.sent = 0
}

// answered adds the time that a request took to the average of the last few.
func (u *usage) answered(took time.Duration) { u.took += (took - u.took) / 16 }

// judge adapts the trust.
func (u *usage) judge(wasted bool) {
	if wasted {
		u.trust /= 2
	} else {
		u.trust = min(u.trust+trustStep, trustMost)
	}
}

// demand is what decides how many slots a process reserves.
type demand struct {
	waiting  int     // callers in Acquire
	soon     int     // callers that will call Acquire soon, at most
	flying   int     // requests in flight
	reserved int     // slots that the process has
	later    int     // those due after the time at which the next are asked for
	left     int     // those of a stretch that will not be late at the next reply
	speed    float64 // of usage
	took     time.Duration
	trust    float64
	held     bool
	ownRate  float64 // requests per second of a process slower than the fleet; else 0

	horizon  time.Duration // how far ahead slots are given
	lead     time.Duration // how much of that is because calls are slow, on each way
	backlog  time.Duration // how far ahead they had been given at the last call
	active   int           // processes that want slots
	single   bool          // one of them takes slots one by one: the others' rows must be short
	interval micros        // between slots of the fleet
}

// alone reports whether no other process wants slots. What this one reserves and does not use then
// costs nobody anything.
func (d demand) alone() bool {
	return d.active <= 1 && d.share() <= aloneMost*6/5 && d.ownRate == 0 && !d.held
}

// share is the process's fair share of the slots within the horizon.
func (d demand) share() int { return int(microsOf(d.horizon) / d.interval / micros(d.active)) }

// spare returns how many slots to reserve for a stretch of time, or 0 to reserve only what can be
// used. At a limit far above what the fleet sends, a slot for each request would come due and be
// given up long before its request. The process then reserves a run of slots that lasts until the
// next call: a quarter of its share, or all of it if it is the only one, and only while the others leave
// half of the schedule free.
func (d demand) spare() int {
	n := d.share()
	if d.active > 1 {
		n /= 4
	}
	if d.alone() || n < spareLeast || n < int(d.speed*d.horizon.Seconds()) || d.backlog > d.horizon/2 || d.ownRate > 0 || d.held {
		return 0
	}
	return n
}

// expected returns how many slots the process will likely use within the horizon.
func (d demand) expected() int {
	if d.alone() {
		return int(aloneTrust * d.speed * d.horizon.Seconds())
	}
	// Among several the slots come in a row, and each of a row needs a caller. A short row needs
	// fewer, because some call again meanwhile.
	callers := d.waiting + d.flying
	speed, short := d.trust*d.speed, firstHorizon.duration()+2*d.lead
	row := max(int(speed*short.Seconds()), callers)
	if micros(callers)*d.interval < microsOf(d.took) {
		row = callers // the row is over before the first of them calls again
	}
	return min(int(speed*d.horizon.Seconds()), row)
}

// slots returns how many slots of its fair share the process can use, and how many it lacks.
func (d demand) slots() (usable, want int) {
	need := d.waiting + d.soon
	if need > 0 && d.alone() {
		need = max(need, aloneLeast)
	}
	usable = max(d.waiting, min(d.expected(), need))
	if spare := d.spare(); spare > usable && usable > 0 {
		return spare, spare - d.left
	}
	share := d.share()
	switch {
	case d.held:
		share = 1 // a probe
	case d.ownRate > 0: // a few at a time
		share = d.reserved + max(1, int(d.ownRate*maxLateness.Seconds()))
	}
	usable = min(usable, max(1, share))
	if usable > 1 && d.ownRate == 0 && !d.single {
		return usable, min(usable-d.later, need-d.reserved)
	}
	return usable, usable - d.reserved
}

// askAgain returns when to ask for slots again, after a reply with too few because
// other processes have them: when there are a few, and not all processes at once.
func (r *reply) askAgain() time.Duration {
	spread := r.horizon / 8
	if r.n == 0 && r.rate*r.horizon.duration().Seconds() < float64(r.active) {
		spread *= micros(r.active) // there is not one for each process: one call soon is enough
	}
	return max(r.retry, r.horizon/4).duration() + rand.N(spread.duration()+1)
}
