package ratelimit

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"
)

// FleetConfig configures the limiter of one process of a fleet. Rate and Burst are the process's own.
type FleetConfig struct {
	Config
	Redis   redis.UniversalClient // the database that the fleet shares
	Process string                // identifies the process within the fleet
	// Observer: the process is not a worker. It keeps to the fleet's limit and to its
	// own Rate, which lowers the fleet's ceiling only while no worker is alive.
	Observer bool
	// Log receives warnings. By default they are dropped.
	Log *slog.Logger
	// Demand, if not nil, returns how many requests will call Acquire soon, at most. No slots are
	// reserved beyond these and the calls that already wait. It must be quick.
	Demand func() int

	// KernelTimer: use a timer of the kernel where there is one. It costs less at low rates, but does not
	// work in the bubbles of testing/synctest.
	KernelTimer bool

	heartbeat time.Duration // 0: the default
}

// timer calls a function at a time. It may call it at other times, too.
type timer interface {
	Reset(time.Duration) bool
	Stop() bool
}

// reportWait is how long Report waits at most until Redis knows an urgent answer.
const reportWait = 250 * time.Millisecond

// Fleet limits the requests of all processes that share a Redis database. It grants slots while
// [Fleet.Run] runs and Redis answers. Its methods are safe for concurrent use.
type Fleet struct {
	cfg   FleetConfig
	start time.Time // the origin of all instants

	mu       sync.Mutex
	shared   *reply        // the fleet's state, as of the last reply
	own      ownHold       // of this process alone
	hold     held          // in effect, as last observed
	changed  chan struct{} // closed when the reason of hold changes
	latest   uint64        // the highest number of a slot handed out
	flying   int           // slots handed out that are not reported yet
	waiters  waiters
	slots    slots
	reserver reserver
	guard    *rate.Limiter // the second guard, which also enforces the process's own Rate
	timer    timer         // calls fire
	wake     instant       // when it does, or never
	notices  []Hold        // that OnHold has not seen
	noticing bool          // a goroutine calls OnHold
}

// NewFleet returns a limiter, which joins the fleet when [Fleet.Run] runs.
func NewFleet(cfg FleetConfig) (*Fleet, error) {
	cfg.Burst = cmp.Or(cfg.Burst, 1)
	cfg.giveUp, cfg.giveUpOwn = cmp.Or(cfg.giveUp, giveUp), cmp.Or(cfg.giveUpOwn, giveUpOwn)
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("new fleet limiter: %w", err)
	}
	if cfg.Redis == nil || cfg.Process == "" {
		return nil, errors.New("new fleet limiter: a Redis client and a process id are required")
	}
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	cfg.heartbeat = cmp.Or(cfg.heartbeat, heartbeat)
	f := &Fleet{
		cfg:     cfg,
		start:   time.Now(),
		changed: make(chan struct{}),
		guard:   rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Burst),
		wake:    never,
		shared: &reply{
			ceiling: float64(cfg.Rate), rate: float64(cfg.Rate),
			interval: microsOf(time.Second) / micros(cfg.Rate), untilOutage: 1,
			horizon: firstHorizon, active: 1,
		},
	}
	f.timer = time.AfterFunc(never, f.fire)
	f.reserver = newReserver(f)
	f.slots.giveBack, f.slots.returns = f.giveBack, f.returnSlots
	f.setGuard(0)
	return f, nil
}

// Run takes part in the fleet until ctx ends, and then leaves it. It must run exactly once.
func (f *Fleet) Run(ctx context.Context) {
	if f.cfg.KernelTimer {
		f.setTimer(newKernelTimer(f.fire))
		defer func() { f.setTimer(time.AfterFunc(never, f.fire)) }()
	}
	f.reserver.loop(ctx)
}

// setTimer replaces the timer.
func (f *Fleet) setTimer(t timer) {
	f.mu.Lock()
	defer f.unlock()
	f.timer.Stop()
	f.timer, f.wake = t, never
	f.serve(f.now())
}

// Acquire waits for a slot, in order of arrival. It returns ctx.Err() as soon as ctx
// ends, and [ErrHeld] when it has waited in a hold for longer than the Config allows.
func (f *Fleet) Acquire(ctx context.Context) (Slot, error) {
	return f.acquire(ctx, &f.waiters.rest)
}

// AcquireFirst is Acquire ahead of all others, for controls. In a hold it gets the next probe.
func (f *Fleet) AcquireFirst(ctx context.Context) (Slot, error) {
	return f.acquire(ctx, &f.waiters.first)
}

func (f *Fleet) acquire(ctx context.Context, q *list.List) (Slot, error) {
	if err := ctx.Err(); err != nil {
		return Slot{}, err
	}
	f.mu.Lock()
	now := f.now()
	w := &waiter{arrived: now}
	place := q.PushBack(w)
	f.serve(now)
	if w.served {
		f.unlock()
		return w.slot, w.err
	}
	w.done = make(chan struct{})
	f.unlock()

	select {
	case <-w.done:
		return w.slot, w.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	now = f.now()
	q.Remove(place) // unless it was served as ctx ended
	if w.slot != (Slot{}) {
		f.flying--
		f.unused(now, w.slot)
	}
	f.serve(now)
	f.unlock()
	return Slot{}, ctx.Err()
}

// Report reports the answer to a slot's request. Call it once per slot: a probe without a report
// delays the next by 20 s. For important answers Report waits for Redis up to 250 ms.
func (f *Fleet) Report(s Slot, a Answer) {
	var sent <-chan struct{}
	f.mu.Lock()
	now := f.now()
	held := f.hold.reason != ReasonNone
	if f.answer(now, s, a) {
		sent = f.reserver.flush()
	}
	if held || a.Kind != OK { // else nothing has changed for those who wait
		f.serve(now)
	}
	f.unlock()
	if sent == nil {
		return
	}
	select {
	case <-sent:
	case <-time.After(reportWait):
	}
}

// answer records an answer. It is urgent if it may change the fleet's state.
func (f *Fleet) answer(now instant, s Slot, a Answer) (urgent bool) {
	f.flying = max(0, f.flying-1)
	if a.Kind == Unused {
		f.unused(now, s)
		return s.probe
	}
	f.reserver.usage.answered(f.start.Add(now).Sub(s.granted))
	f.own.answer(now, s, a)
	out := &f.reserver.outbox
	out.add(newEvent(now, s, a))
	switch a.Kind {
	case Throttled, Down:
		return true
	case Transient:
		return s.probe || out.failures >= f.shared.untilOutage
	case OK:
		return s.probe || f.fleetHold(now).reason != ReasonNone
	}
	return s.probe
}

// unused records that nothing was sent with a slot.
func (f *Fleet) unused(now instant, s Slot) {
	if s.probe {
		f.own.answer(now, s, Answer{Kind: Unused})
		f.giveBack(s.seq)
	}
}

// giveBack lets the fleet use another probe in place of this one.
func (f *Fleet) giveBack(probe uint64) {
	f.reserver.outbox.add(event{kind: "unused", seq: probe})
	f.reserver.flush()
}

// returnSlots lets the fleet use slots that are given up.
func (f *Fleet) returnSlots(from slot, last uint64) {
	f.reserver.outbox.add(event{kind: "back", seq: from.seq, last: last, due: f.reserver.clock.micros(from.due)})
}

// Status returns the fleet's rate, and the hold that this process is under: the fleet's or its own.
func (f *Fleet) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	return Status{
		Ceiling: Rate(f.shared.ceiling),
		Rate:    Rate(f.shared.rate),
		Hold:    f.holdNow(now).at(now),
	}
}

// HoldOwn begins a hold of this process alone, with a cause to show: ReasonUnauthorized if the API
// refuses the key and not only a link, or ReasonOutage if this process gets no answers from the API
// while others do. An [OK] answer to a later request with the present key ends the hold.
func (f *Fleet) HoldOwn(reason Reason, cause string) {
	f.mu.Lock()
	now := f.now()
	f.own.begin(now, f.latest, reason, Answer{Cause: cause}.cause())
	f.reserver.flush() // for ShowFleet
	f.serve(now)
	f.unlock()
}

// AwaitHold waits for a hold of this process for a reason. It returns false if none comes.
func (f *Fleet) AwaitHold(ctx context.Context, reason Reason, within time.Duration) bool {
	over := time.After(within)
	for {
		f.mu.Lock()
		is, changed := f.holdNow(f.now()).reason == reason, f.changed
		f.mu.Unlock()
		if is {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		case <-over:
			return f.Status().Hold.Reason == reason
		}
	}
}

// KeyChanged says that the API key has changed. A hold for the old key may then be probed.
func (f *Fleet) KeyChanged() {
	f.mu.Lock()
	now := f.now()
	f.own.keyChanged(now)
	f.serve(now)
	f.unlock()
}

func (f *Fleet) now() instant { return time.Since(f.start) }

// fleetHold returns the hold of the fleet.
func (f *Fleet) fleetHold(now instant) held { return f.shared.hold(&f.reserver.clock, now) }

// holdNow returns this process's hold: a manual one, or the longer of the fleet's and its own.
func (f *Fleet) holdNow(now instant) held {
	shared, own := f.fleetHold(now), f.own.hold(now)
	if own.reason == ReasonNone || shared.reason == ReasonManual || shared.reason != ReasonNone && shared.until > own.until {
		return shared
	}
	return own
}

// serve hands out due slots, ends long waits, and sets the timers. The caller holds the lock.
func (f *Fleet) serve(now instant) {
	f.observe(now)
	f.slots.expire(now, f.waiters.count())
	giveUpAfter := f.cfg.giveUp
	if f.hold.own {
		giveUpAfter = f.cfg.giveUpOwn
	}
	f.waiters.giveUp(now, f.hold, giveUpAfter)
	for f.waiters.count() > 0 {
		s, ok := f.slots.next(now)
		if !ok {
			break
		}
		f.grant(now, s)
	}
	wake := f.waiters.giveUp(now, f.hold, giveUpAfter)
	if len(f.slots.list) > 0 {
		if next := f.slots.list[0]; f.waiters.count() > 0 {
			wake = min(wake, next.due)
		} else if next.probe {
			wake = min(wake, next.due+maxLateness+1) // to give it back
		}
	}
	if f.cfg.OnHold != nil {
		wake = min(wake, f.shared.holdEnd(&f.reserver.clock, now))
	}
	if wake != f.wake {
		f.wake = wake
		f.timer.Reset(wake - now)
	}
	f.reserver.wake(now)
}

func (f *Fleet) fire() {
	f.mu.Lock()
	now := f.now()
	if now >= f.wake { // else the timer was reset
		f.wake = never
	}
	f.serve(now)
	f.unlock()
}

// grant gives a slot to the first waiter, unless one of the guards forbids it.
func (f *Fleet) grant(now instant, s slot) {
	switch {
	case f.own.open(now) > now:
		f.slots.lose(s)
		return
	case !f.guard.AllowN(f.start.Add(now), 1):
		f.slots.giveUp(s) // the guard would refuse another one, too
		return
	}
	f.own.granted(now, s.seq)
	f.latest = max(f.latest, s.seq)
	f.flying++
	f.reserver.usage.sent++
	f.waiters.serve(Slot{
		granted: f.start.Add(now), seq: s.seq, key: f.own.key, probe: s.probe || f.own.on(),
		// One request more is allowed, so a slot may be used until the next one.
		until: f.start.Add(s.due + max(maxLateness+staleAfter, s.spacing.duration())),
	})
}

// observe notes that a hold has begun, has changed its reason, or has ended.
func (f *Fleet) observe(now instant) {
	before := f.hold.reason
	f.hold = f.holdNow(now)
	if f.hold.reason == before {
		return
	}
	close(f.changed)
	f.changed = make(chan struct{})
	switch {
	case f.own.on() && f.hold.reason != ReasonNone:
		f.slots.clear()
	case f.hold.reason != ReasonNone:
		f.slots.keepProbe()
	}
	if f.cfg.OnHold != nil {
		f.notices = append(f.notices, f.hold.at(now))
	}
}

// unlock releases the lock, and has OnHold called if there is something to notice.
func (f *Fleet) unlock() {
	if len(f.notices) > 0 && !f.noticing {
		f.noticing = true
		go f.notice()
	}
	f.mu.Unlock()
}

// notice calls OnHold, once at a time and in order.
func (f *Fleet) notice() {
	f.mu.Lock()
	for len(f.notices) > 0 {
		next := f.notices[0]
		f.notices = f.notices[1:]
		f.mu.Unlock()
		f.cfg.OnHold(next)
		f.mu.Lock()
	}
	f.noticing = false
	f.mu.Unlock()
}

// setGuard sets the second guard to the fleet's rate or the process's own, whichever
// is lower. Its burst allows for slots that are used up to maxLateness late.
func (f *Fleet) setGuard(now instant) {
	limit := f.shared.rate
	if f.paced() {
		limit = f.ownRate()
	}
	at := f.start.Add(now)
	f.guard.SetLimitAt(at, rate.Limit(limit))
	f.guard.SetBurstAt(at, f.cfg.Burst+1+int(limit*maxLateness.Seconds()))
}

// paced reports whether the process's own Rate, below the fleet's, sets its pace.
func (f *Fleet) paced() bool { return float64(f.cfg.Rate) < f.shared.rate }

func (f *Fleet) ownRate() float64 { return ownShare * float64(f.cfg.Rate) }
