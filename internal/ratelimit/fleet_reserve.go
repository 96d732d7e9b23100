package ratelimit

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// heartbeat is how often a process calls at least. What another process or
	// a command changed acts here so much later at most.
	heartbeat = 500 * time.Millisecond
	// idleBeats of them pass between the calls of a process with nothing to send.
	idleBeats = 4
	// transientDelay is how long failures that cannot yet be an outage wait
	// for a call to ride along with.
	transientDelay = 10 * time.Millisecond
	// properTime is how much time good answers of one event may span.
	properTime = 20 * time.Millisecond

	callTimeout = time.Second // of one call to Redis
	awayFirst   = 250 * time.Millisecond
	awayMost    = time.Second // between calls while Redis is away

	// The mean over which the process's own speed is taken.
	speedOver = 100 * time.Millisecond
	// Of what it will likely use, so much is reserved before anybody waits:
	// less if such slots were wasted.
	trustMost, trustStep = 0.9, 0.02

	// Where the fleet sends far less than it may, spareLeast slots or more are
	// reserved for a stretch of time, and spareKept of them kept: see spare.
	spareLeast, spareKept = 200, 4000

	leadMost = 500 * time.Millisecond
	// Redis' clock and ours drift apart by at most so much.
	drift = 200e-6
	// The first calls only compare the clocks: the very first is slow.
	firstCalls = 5
	// Of its own flag a process uses so much: its slots may come a little early.
	ownShare = 0.9925
	// So much of a better knowledge of Redis' clock is taken on in a time.
	slew = 0.004
)

// reserver is the state of the calls to Redis.
type reserver struct {
	number uint64 // of the latest call
	called instant
	sleeps instant       // until when Run sleeps; -1 while it works
	ended  bool          // Run has
	pause  time.Duration // after a failed call; 0 while Redis answers
	resume instant       // no call before

	waiting int // in the queue
	spent   int // slots handed out since the last call
	speed   float64
	wasted  int // slots for which nobody came since the last call
	trust   float64
	asked   int     // slots wanted by the last call
	step    int     // of the slots it brought, every so many is kept
	askAt   instant // no slots before
	paceAt  instant // nor before, if paced
	horizon time.Duration
	backlog time.Duration // how far ahead the fleet's slots were given away at the last call
	active  int

	events   []event // that no call has carried yet
	failures int     // transient ones among them
	urgent   bool
	told     bool          // another process changed the holds
	sendBy   instant       // when events have to go
	carried  chan struct{} // closed when a call has carried events

	unsure []event       // that a failed call may have carried: it is repeated
	doubt  chan struct{} // closed when they are known to be carried

	epoch    micros // of the last reply
	seen     micros
	known    int // replies of this epoch
	seq      uint64
	releases uint64
	here     instant       // the fleet's instant 0, at the earliest, in instants of ours
	lag      time.Duration // of calls; slots that come earlier would be late
	ceiling  float64       // that was warned of
}

func (p *reserver) init() {
	p.called, p.sleeps = -heartbeat, -1
	p.trust = trustMost
	p.sendBy = never
	p.horizon, p.active = 100*time.Millisecond, 1
	p.carried = make(chan struct{})
}

// Run talks to Redis until ctx ends, and then takes the process out of the
// fleet. It has to run for anything to be granted, once.
func (f *Fleet) Run(ctx context.Context) {
	listening, stop := context.WithCancel(ctx)
	var listener sync.WaitGroup
	listener.Go(func() { f.listen(listening) })
	defer listener.Wait()
	defer stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		f.mu.Lock()
		now := f.now()
		f.expire(now)
		at := f.callDue(now)
		if at > now {
			f.sleeps = at
			f.mu.Unlock()
			timer.Reset(at - now)
			select {
			case <-ctx.Done():
			case <-f.kick:
			case <-timer.C:
			}
			continue
		}
		f.sleeps = -1
		req := f.request(now)
		f.unlock()
		f.call(ctx, req, now)
	}
	f.leave(ctx)
}

// listen makes a call whenever another process has changed the holds. What it
// misses is learnt by the next call.
func (f *Fleet) listen(ctx context.Context) {
	changes := f.cfg.Redis.Subscribe(ctx, fleetKey)
	defer context.AfterFunc(ctx, func() { _ = changes.Close() })()
	for ctx.Err() == nil {
		change, err := changes.ReceiveMessage(ctx)
		if err != nil {
			select {
			case <-time.After(awayMost):
			case <-ctx.Done():
			}
			continue
		}
		if change.Payload == f.cfg.Process {
			continue
		}
		f.mu.Lock()
		f.told = true
		f.wakeRun(f.now())
		f.unlock()
	}
}

// leave tells Redis what it does not know yet, and that this process is gone.
func (f *Fleet) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	for more := true; more && ctx.Err() == nil; {
		f.mu.Lock()
		now := f.now()
		f.drop(true)
		req := f.request(now)
		more = len(f.events) > 0 // the call repeats one that failed
		f.unlock()
		req.leave, req.want, req.usable = true, 0, 0
		f.call(ctx, req, now)
	}
	f.mu.Lock()
	f.ended = true
	f.unlock()
}

// flush lets the events go with a call at once, if that is urgent, and returns
// a channel that is closed when it is done, or nil.
func (f *Fleet) flush(urgent bool) <-chan struct{} {
	if !urgent {
		return nil
	}
	f.urgent = true
	f.wakeRun(f.now())
	if f.pause > 0 || f.ended {
		return nil // no answer to wait for
	}
	return f.carried
}

// await waits for a flush.
func (f *Fleet) await(done <-chan struct{}) {
	if done == nil {
		return
	}
	timer := time.NewTimer(reportWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// wakeRun lets Run look again if a call is due before it would.
func (f *Fleet) wakeRun(now instant) {
	if f.sleeps >= 0 && f.callDue(now) < f.sleeps {
		f.sleeps = -1
		select {
		case f.kick <- struct{}{}:
		default:
		}
	}
}

// callDue returns when Redis has to be called next.
func (f *Fleet) callDue(now instant) instant {
	beat := f.cfg.heartbeat
	if f.waiting == 0 && len(f.slots) == 0 && f.cfg.Demand != nil && f.cfg.Demand() == 0 {
		beat *= idleBeats
	}
	at := min(f.called+beat, f.sendBy)
	if f.urgent || f.told || f.known < firstCalls {
		at = now
	}
	if usable, want := f.demand(now); want > 0 && (f.paced() || 2*want >= usable) {
		at = min(at, max(now, f.askAt, f.shared.opens, f.own.open(now)))
	} else if n := len(f.slots); n > 0 && f.spare() > 0 {
		at = min(at, f.slots[n-1].due-f.renewal())
	}
	return max(at, f.resume)
}

// spare returns how many slots the process reserves for a stretch of time,
// however few of them it can use; 0: for its use alone. At a limit far above
// what the fleet sends, a slot for each request would come due, and be given
// up, long before its request: it takes slots that follow each other until the
// next call. They are a quarter of the process's share, and it takes them only
// while others leave half of the schedule free.
func (f *Fleet) spare() int {
	n := f.share() / 4
	switch {
	case n < spareLeast, n < int(f.speed*f.horizon.Seconds()), f.backlog > f.horizon/2, f.paced(), f.shown.reason != ReasonNone:
		return 0
	}
	return n
}

// renewal is how long before a slot is due one behind it has to be asked for.
func (f *Fleet) renewal() time.Duration { return 2*f.lag + time.Millisecond - catchUp }

// share is how many of the slots that are given ahead are this process's in
// fairness.
func (f *Fleet) share() int {
	return int(microsOf(f.horizon) / f.shared.interval / micros(f.active))
}

// demand returns how many slots the process could use in the next 100 ms or
// so, in its fair share, and how many of them it has not reserved yet.
func (f *Fleet) demand(now instant) (usable, want int) {
	usable = int(f.trust * f.speed * f.horizon.Seconds())
	if f.cfg.Demand != nil {
		usable = min(usable, f.waiting+f.cfg.Demand())
	}
	usable = max(f.waiting, usable)
	if spare := f.spare(); spare > usable && usable > 0 {
		// Those that will be too late by the time of the answer do not count.
		late, _ := slices.BinarySearchFunc(f.slots, now+f.renewal(), func(s slot, t instant) int { return cmp.Compare(s.due, t) })
		left := (len(f.slots) - late) * f.step
		return spare, spare - left
	}
	share := f.share()
	switch {
	case f.shown.reason != ReasonNone:
		share = 1 // a probe
	case f.paced():
		share = len(f.slots) + max(1, int(f.flag()*catchUp.Seconds()))
	}
	usable = min(usable, max(1, share))
	return usable, usable - len(f.slots)
}

// paced reports whether this process's own flag is lower than the fleet's
// rate. It then asks for few slots at a time, at its own rate.
func (f *Fleet) paced() bool { return float64(f.cfg.Rate) < f.shared.rate }

// flag returns the process's own highest rate.
func (f *Fleet) flag() float64 { return ownShare * float64(f.cfg.Rate) }

// request makes the next call. The events that a failed call may have carried
// go again under that call's number, and alone.
func (f *Fleet) request(now instant) *request {
	d := now - f.called
	part := -math.Expm1(-d.Seconds() / speedOver.Seconds())
	if d > 0 {
		f.speed += part * (float64(f.spent)/d.Seconds() - f.speed)
	}
	if f.wasted > 0 && f.spare() == 0 {
		f.trust /= 2
	} else {
		f.trust = min(f.trust+trustStep, trustMost)
	}
	f.called, f.spent, f.wasted, f.told = now, 0, 0, false

	usable, want := f.demand(now)
	if f.own.open(now) > now || f.paced() && now < f.paceAt || f.known < firstCalls {
		want = 0
	}
	if f.paced() && want > 0 {
		f.paceAt = now + time.Duration(float64(want)/f.flag()*float64(time.Second))
	}
	if f.doubt == nil {
		f.number++
		f.unsure, f.doubt = f.events, f.carried
		f.events, f.carried = nil, make(chan struct{})
		f.failures, f.urgent, f.sendBy = 0, false, never
	}
	f.asked = max(0, want)
	burst := f.cfg.Burst
	if f.cfg.Guest {
		burst = 0
	}
	return &request{
		process: f.cfg.Process, run: f.run, number: f.number,
		flag: f.cfg.Rate, burst: burst,
		usable: usable, want: f.asked, lead: min(f.lag, leadMost),
		epoch: f.epoch, seen: f.seen, seq: f.seq,
		own: f.own.hold(now), events: f.unsure,
	}
}

// call makes the call and takes in the reply.
func (f *Fleet) call(ctx context.Context, req *request, sent instant) {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	r, err := req.do(callCtx, f.cfg.Redis, sent)
	cancel()
	f.mu.Lock()
	now := f.now()
	if err == nil {
		f.take(now, sent, r)
	} else if ctx.Err() == nil {
		f.away(now, err)
	}
	f.serve(now)
	f.unlock()
}

// away puts off the next call.
func (f *Fleet) away(now instant, err error) {
	if f.pause == 0 {
		f.cfg.Log.Warn("Redis is away: nothing is sent", "error", err)
		f.pause = awayFirst
	} else {
		f.pause = min(2*f.pause, awayMost)
	}
	f.resume = now + f.pause
}

// take takes in the reply to a call that was sent at the given instant.
func (f *Fleet) take(now, sent instant, r *reply) {
	if f.pause > 0 {
		f.cfg.Log.Info("Redis is back")
	}
	f.pause, f.resume = 0, 0
	close(f.doubt)
	f.unsure, f.doubt = nil, nil

	isFirst := f.epoch == 0
	f.synchronise(now, sent, r)
	f.seq = max(f.seq, r.seq)
	f.horizon, f.active = r.horizon.duration(), r.active
	if !isFirst && f.releases != r.releases {
		f.own.end()
	}
	f.releases = r.releases
	f.shared = r.state(f.here)
	f.setGuard(now)
	f.warn(r)
	f.observe(now)
	if r.n > 0 {
		f.backlog = (r.base + micros(r.burst-1)*r.spacing - r.from).duration()
	}
	f.reserve(r)

	f.askAt = f.paceAt
	if r.n < f.asked {
		f.askAt = max(f.askAt, now+time.Millisecond)
		if f.shared.opens <= now {
			// Others have the slots. Ask again when there are a few, and not
			// all at the same moment.
			spread := f.horizon / 8
			if r.n == 0 && r.rate*f.horizon.Seconds() < float64(r.active) {
				spread *= time.Duration(r.active) // not all can have one: one of them is soon enough
			}
			f.askAt = max(f.askAt, now+max(r.retry.duration(), f.horizon/4)+rand.N(spread+1))
		}
	}
}

// synchronise finds out when the fleet's clock began in our instants. The
// reply was made between sent and now, which bounds it on both sides; from the
// upper bound no slot is early. The least of many upper bounds is nearest the
// truth. It is taken on slowly, as it brings slots closer together, and kept
// until the clocks may have drifted from it or one of them has been set.
func (f *Fleet) synchronise(now, sent instant, r *reply) {
	f.lag = max(now-sent, f.lag*9/10)
	low, high := sent-r.now.duration(), now-r.now.duration()
	if f.epoch != r.epoch {
		f.known = 0
	}
	passed := float64((r.now - f.seen).duration())
	here := f.here + time.Duration(drift*passed)
	switch {
	case f.known == 0 || here < low || here > high+f.lag+10*time.Millisecond:
		here = high // a clock has been set
	case here > high && f.known < firstCalls:
		here = high
	case here > high:
		here = max(high, here-time.Duration(slew*passed))
	}
	f.here, f.epoch, f.seen = here, r.epoch, r.now
	f.known++
}

// reserve adds the reply's slots, unless they were asked for before this
// process's own hold began.
func (f *Fleet) reserve(r *reply) {
	if f.own.on() && r.n > 1 {
		if r.probe {
			f.giveBack(r.first)
		}
		return
	}
	f.slots = append(f.room[:0], f.slots...) // to the front, where those that are gone were
	defer func() { f.room = f.slots }()
	ordered := true
	f.step = 1
	if f.spare() > 0 {
		f.step = max(1, r.n/spareKept)
	}
	for j := 0; j < r.n; j += f.step {
		due := f.here + max(r.from, r.base+micros(j)*r.spacing).duration()
		if n := len(f.slots); n > 0 && due < f.slots[n-1].due {
			ordered = false
		}
		f.slots = append(f.slots, slot{due: due, seq: r.first + uint64(j), probe: r.probe})
	}
	if ordered {
		return
	}
	// The rate has risen, so that the new ones come before the last. Which of
	// them has which number does not matter.
	due := make([]instant, len(f.slots))
	for i, s := range f.slots {
		due[i] = s.due
	}
	slices.Sort(due)
	for i := range f.slots {
		f.slots[i].due = due[i]
	}
}

// warn tells once when the fleet's rate is lower than this process's flag.
func (f *Fleet) warn(r *reply) {
	if r.ceiling == f.ceiling {
		return
	}
	f.ceiling = r.ceiling
	if !f.cfg.Guest && r.override == 0 && r.ceiling < float64(f.cfg.Rate) {
		f.cfg.Log.Warn("the rate of this process has no effect: another worker's is lower", "rate", f.cfg.Rate.String(), "fleet", Rate(r.ceiling).String())
	}
}
