package ratelimit

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"sync"
	"time"

	"linkcancel/internal/tick"
)

const (
	// heartbeat is the time between calls while there is nothing to do, or the horizon if that is longer.
	// What another process or a command changed acts here at the next call at the latest.
	heartbeat = 500 * time.Millisecond
	// idleHeartbeats pass between the calls of a process with nothing to send.
	idleHeartbeats = 4

	callTimeout = time.Second // of a call to Redis
	// The pause after a failed call doubles from retryFirst to retryMost.
	retryFirst, retryMost = 250 * time.Millisecond, time.Second
	// slowPatience is how long calls may get no answer in time before that is logged.
	slowPatience = 2 * time.Second

	// maxLead is the longest time for which slots are asked ahead because of slow calls.
	maxLead = 500 * time.Millisecond
	// renewMost is how long before the end of its slots a process alone asks for more, unless calls are slow.
	renewMost = 125 * time.Millisecond
	// renewShared is the same among several.
	renewShared = 10 * time.Millisecond
	// firstHorizon is how far ahead slots are given, in µs, until there is a reply.
	firstHorizon micros = 100_000
)

// reserver is the loop that calls the script, guarded by the fleet's lock.
type reserver struct {
	fleet   *Fleet
	run     string        // identifies this run of the process
	wakeUp  chan struct{} // ends a sleep of the loop
	sleeps  instant       // when the loop's sleep ends; -1 while it works
	stopped bool

	outbox  outbox
	clock   clock
	called  instant // the latest call
	changed bool    // another process changed the holds

	retry   time.Duration // the pause after a failed call; 0 while Redis answers
	away    instant       // since when it does not
	missed  bool          // that was logged
	retryAt instant       // no call before
	usage   usage
	asked   int           // slots that the last call asked for
	row     time.Duration // how long the slots in hand lasted after the latest reply
	askAt   instant       // ask for no slots before
	pacedAt instant       // nor before this, if paced by the process's own Rate and it uses its slots
	backlog time.Duration // see demand
	seq     uint64        // the latest grant of the fleet
}

func newReserver(f *Fleet) reserver {
	return reserver{
		fleet: f, run: rand.Text(), wakeUp: make(chan struct{}, 1), sleeps: -1,
		outbox: outbox{sendBy: never, carried: make(chan struct{})},
		called: -heartbeat, usage: usage{trust: trustMost},
	}
}

// loop runs until ctx ends, and then takes the process out of the fleet.
func (r *reserver) loop(ctx context.Context) {
	f := r.fleet
	var listener sync.WaitGroup
	listener.Go(func() { r.listen(ctx) })
	defer listener.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		f.mu.Lock()
		now := f.now()
		f.slots.expire(now, f.waiters.count())
		at := r.due(now)
		if at > now {
			r.sleeps = at
			f.mu.Unlock()
			timer.Reset(at - now)
			select {
			case <-ctx.Done():
			case <-r.wakeUp:
			case <-timer.C:
			}
			continue
		}
		r.sleeps = -1
		req := r.request(now)
		f.unlock()
		r.call(ctx, req, now)
	}
	r.leave(ctx)
}

// listen has the loop make a call when another process has changed the holds. A
// message that is lost costs time only: the next heartbeat finds the change.
func (r *reserver) listen(ctx context.Context) {
	f := r.fleet
	changes := f.cfg.Redis.Subscribe(ctx, fleetKey)
	defer context.AfterFunc(ctx, func() { _ = changes.Close() })()
	for ctx.Err() == nil {
		change, err := changes.ReceiveMessage(ctx)
		if err != nil {
			select {
			case <-time.After(retryMost):
			case <-ctx.Done():
			}
			continue
		}
		if change.Payload == f.cfg.Process {
			continue
		}
		f.mu.Lock()
		r.changed = true
		r.wake(f.now())
		f.unlock()
	}
}

// leave reports what Redis does not know yet, and that this process has ended.
func (r *reserver) leave(ctx context.Context) {
	f := r.fleet
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	for more := true; more && ctx.Err() == nil; {
		f.mu.Lock()
		now := f.now()
		f.slots.clear()
		req := r.request(now)
		more = len(r.outbox.pending) > 0 // this call repeats one that failed
		f.unlock()
		req.leave, req.want, req.usable = true, 0, 0
		r.call(ctx, req, now)
	}
	f.mu.Lock()
	r.stopped = true
	f.mu.Unlock()
}

// flush sends the events at once. The channel closes when they are sent; nil: not soon.
func (r *reserver) flush() <-chan struct{} {
	r.outbox.urgent = true
	r.wake(r.fleet.now())
	if r.retry > 0 || r.stopped {
		return nil
	}
	return r.outbox.carried
}

// wake ends a sleep of the loop that is too long.
func (r *reserver) wake(now instant) {
	f := r.fleet
	if len(f.slots.list) > 2*f.waiters.count() && !r.outbox.urgent && !r.changed && r.outbox.sendBy == never {
		return // there are slots enough, until the loop looks by itself
	}
	if r.sleeps >= 0 && r.due(now) < r.sleeps {
		r.sleeps = -1
		select {
		case r.wakeUp <- struct{}{}:
		default:
		}
	}
}

// due returns when to make the next call.
func (r *reserver) due(now instant) instant {
	f := r.fleet
	d := r.demand(now)
	beat := r.called + max(f.cfg.heartbeat, d.horizon)
	if d.waiting == 0 && d.reserved == 0 && d.soon == 0 {
		beat = tick.After(f.start.Add(r.called), f.cfg.heartbeat*idleHeartbeats).Sub(f.start)
	}
	at := min(beat, r.outbox.sendBy)
	if r.outbox.urgent || r.changed || !r.clock.ready() {
		at = now
	}
	if usable, want := d.slots(); want > 0 {
		asks := r.renews(d)
		if d.single && 2*want >= usable {
			asks = now
		}
		at = min(at, max(now, r.askAt, r.paced(d.ownRate), r.opens(), f.own.open(now), asks))
	} else if d.reserved > 0 && d.spare() > 0 {
		at = min(at, f.slots.end()-r.renewal())
	}
	return max(at, r.retryAt)
}

// renews returns when to ask for the slots after those in hand: a little before these end. Earlier calls
// would get no more, because the slots of the other processes are in between.
func (r *reserver) renews(d demand) instant {
	if d.reserved == 0 || d.ownRate > 0 {
		return 0
	}
	return r.fleet.slots.end() - r.margin(d)
}

// margin is how long before the end of its slots a process asks for more. One that is alone has a pause
// if a call is slower. Among several the others' slots come next anyway.
func (r *reserver) margin(d demand) time.Duration {
	if d.alone() {
		return max(min(r.row/2, renewMost), r.roundTrip())
	}
	return max(min(r.row/4, renewShared), r.roundTrip())
}

// paced returns from when on the process's own rate allows a slot. Slots that it did not use do not
// count: at 1/m, one that came too late would otherwise cost a minute.
func (r *reserver) paced(ownRate float64) instant {
	if ownRate <= 0 {
		return 0
	}
	return r.pacedAt - paceOf(r.fleet.slots.lost, ownRate)
}

// paceOf returns the time in which n requests are sent at a rate per second.
func paceOf(n int, rate float64) time.Duration {
	return time.Duration(float64(n) / rate * float64(time.Second))
}

// opens returns from when on the fleet's holds allow a slot.
func (r *reserver) opens() instant { return r.clock.instant(r.fleet.shared.opens) }

// roundTrip is about how long a slow call takes.
func (r *reserver) roundTrip() time.Duration { return 2*r.clock.lag + time.Millisecond }

// lead is how long slots must be asked ahead because calls are slow.
func (r *reserver) lead() time.Duration { return min(r.clock.lag, maxLead) }

// renewal is how long before a slot is due to ask for the ones after it.
func (r *reserver) renewal() time.Duration { return r.roundTrip() - maxLateness }

// demand collects what decides about slots.
func (r *reserver) demand(now instant) demand {
	f := r.fleet
	d := demand{
		waiting: f.waiters.count(), soon: math.MaxInt32, flying: f.flying, reserved: len(f.slots.list),
		speed: r.usage.speed, took: r.usage.took, trust: r.usage.trust, held: f.hold.reason != ReasonNone,
		horizon: f.shared.horizon.duration(), lead: r.lead(), backlog: r.backlog, active: f.shared.active, single: f.shared.single, interval: f.shared.interval,
	}
	if f.cfg.Demand != nil {
		d.soon = f.cfg.Demand()
	}
	if f.paced() {
		d.ownRate = f.ownRate()
	}
	d.later = f.slots.after(now + r.margin(d) + 1)
	if d.spare() > 0 {
		d.left = f.slots.after(now+r.renewal()) * f.slots.step
	}
	return d
}

// request makes the next call.
func (r *reserver) request(now instant) *request {
	f := r.fleet
	r.usage.average(now - r.called)
	before := r.demand(now)
	r.usage.judge(f.slots.wasted > 0 && before.spare() == 0 && !before.alone())
	r.called, f.slots.wasted, r.changed = now, 0, false

	d := r.demand(now)
	usable, want := d.slots()
	r.pacedAt, f.slots.lost = r.paced(d.ownRate), 0
	if want < 0 || f.own.open(now) > now || now < r.pacedAt || !r.clock.ready() {
		want = 0
	}
	if d.ownRate > 0 && want > 0 {
		r.pacedAt = now + paceOf(want, d.ownRate)
	}
	r.asked = want
	burst := f.cfg.Burst
	if f.cfg.Observer {
		burst = 0
	}
	number, events := r.outbox.next()
	return &request{
		process: f.cfg.Process, run: r.run, number: number,
		rate: f.cfg.Rate, burst: burst,
		usable: usable, want: want, lead: r.lead(),
		epoch: r.clock.epoch, seen: r.clock.seen, seq: r.seq,
		own: f.own.hold(now), events: events,
	}
}

// call makes a call and applies the reply.
func (r *reserver) call(ctx context.Context, req *request, sent instant) {
	f := r.fleet
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	reply, err := req.do(callCtx, f.cfg.Redis, sent)
	cancel()
	f.mu.Lock()
	now := f.now()
	switch {
	case err == nil:
		r.take(now, sent, reply)
	case ctx.Err() == nil:
		if r.retry == 0 {
			r.away = sent
		}
		slow := errors.Is(err, context.DeadlineExceeded)
		if !r.missed && (!slow || now-r.away >= slowPatience) {
			f.cfg.Log.Warn("Redis is away: nothing is sent", "error", err)
			r.missed = true
		}
		r.retry = min(max(2*r.retry, retryFirst), retryMost)
		r.retryAt = now + r.retry
		f.slots.lost += r.asked
	}
	f.serve(now)
	f.unlock()
}

// take applies the reply to a call sent at the given instant.
func (r *reserver) take(now, sent instant, reply *reply) {
	f := r.fleet
	if r.missed {
		f.cfg.Log.Info("Redis is back", "after", (now - r.away).Round(time.Millisecond).String())
	}
	r.retry, r.retryAt, r.missed = 0, 0, false
	r.outbox.confirm()

	if r.clock.epoch != 0 && reply.releases != f.shared.releases {
		f.own.end()
	}
	cfg := &f.cfg
	if reply.ceiling != f.shared.ceiling && reply.ceiling < float64(cfg.Rate) && reply.override == 0 && !cfg.Observer {
		cfg.Log.Warn("the rate of this process has no effect: another worker's is lower", "rate", cfg.Rate.String(), "fleet", Rate(reply.ceiling).String())
	}
	r.clock.update(sent, now, reply.epoch, reply.now)
	r.seq = max(r.seq, reply.seq)
	f.shared = reply
	f.setGuard(now)
	f.slots.thin(reply.interval)
	f.observe(now)
	if reply.n > 0 {
		r.backlog = (reply.base + micros(reply.burst-1)*reply.spacing - reply.from).duration()
	}
	if reply.n == 1 || !f.own.on() { // those asked for before the own hold are given up
		step := 1
		if r.demand(now).spare() > 0 {
			step = max(1, reply.n/spareKept)
		}
		f.slots.add(reply, &r.clock, step)
	}
	r.row = 0
	if len(f.slots.list) > 0 {
		r.row = f.slots.end() - max(now, f.slots.list[0].due)
	}

	r.askAt = now
	if lacking := r.asked - reply.n; lacking > 0 {
		f.slots.lost += lacking
		r.askAt = now + time.Millisecond
		if r.opens() <= now {
			r.askAt = now + reply.askAgain()
		}
	}
}
