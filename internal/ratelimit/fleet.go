package ratelimit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"
)

// FleetConfig configures the limiter of one process of a fleet. Rate is this
// process's own flag: the fleet's ceiling is the lowest of the processes
// alive, or what [SetFleetRate] set, and no process exceeds its own. So it is
// with Burst.
type FleetConfig struct {
	Config
	// Redis is the database that the fleet shares.
	Redis redis.UniversalClient
	// Process is this process's id, as no other's.
	Process string
	// Guest: the process is no worker. It keeps to the fleet's limit and to its
	// own flag, which lowers the fleet's ceiling only while no worker is alive.
	Guest bool
	// Log gets warnings; default none.
	Log *slog.Logger
	// Demand, if not nil, tells how many requests the process has in hand for
	// which it will call Acquire soon: beside those that wait in Acquire, slots
	// are reserved for no more. It must be quick.
	Demand func() int

	heartbeat time.Duration // 0: the default
}

const (
	// reportWait bounds how long a Report of an answer that matters waits for
	// Redis to know of it.
	reportWait = 250 * time.Millisecond

	// catchUp is how late a slot may be handed out: a timer fires late, by up to a
	// millisecond or so. What is older is given up. The margin by which the script
	// stays under the rate pays for it.
	catchUp = 5 * time.Millisecond
)

// Fleet is a limiter for the requests of all processes that share a Redis
// database. Its methods may be called from many goroutines. It works while
// [Fleet.Run] runs: without, or without Redis, nothing is granted.
//
// All processes reserve slots of one schedule, which a script keeps in Redis
// together with the fleet's holds and its rate (fleet_rules.lua,
// fleet_reserve.lua). A slot has a time of its own, at most some 100 ms ahead.
// Here it waits for its time and a caller. It is given up if none has come
// 5 ms later, so that a process that was stopped sends no bunch.
type Fleet struct {
	cfg   FleetConfig
	run   string        // names this run of the process
	start time.Time     // the origin of all instants
	kick  chan struct{} // lets Run look again

	mu     sync.Mutex
	shared fleetState // the fleet's state at the last reply
	own    ownHold    // this process's own hold
	latest uint64     // the highest number of a slot handed out
	slots  []slot     // by time
	room   []slot     // what they are kept in
	queue  queue
	first  queue         // of AcquireFirst
	guard  *rate.Limiter // the second guard; also keeps the process's own flag
	wakeTimer
	shown   held
	changed chan struct{} // closed when the reason of shown changes
	holdNotifier
	reserver
}

// slot is a reserved slot. due and seq both ascend in a list of them.
type slot struct {
	due   instant
	seq   uint64
	probe bool
}

// NewFleet returns a limiter that takes part in the fleet once [Fleet.Run]
// runs.
func NewFleet(cfg FleetConfig) (*Fleet, error) {
	cfg.Config = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("new fleet limiter: %w", err)
	}
	if cfg.Redis == nil || cfg.Process == "" {
		return nil, errors.New("new fleet limiter: it needs a Redis and the id of the process")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.heartbeat == 0 {
		cfg.heartbeat = heartbeat
	}
	f := &Fleet{
		cfg:       cfg,
		run:       rand.Text(),
		start:     time.Now(),
		kick:      make(chan struct{}, 1),
		changed:   make(chan struct{}),
		guard:     rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Burst),
		wakeTimer: wakeTimer{timerAt: never},
	}
	f.shared = fleetState{
		ceiling: float64(cfg.Rate), rate: float64(cfg.Rate),
		interval: microsOf(time.Second) / micros(cfg.Rate), untilOutage: 1,
	}
	f.reserver.init()
	f.setGuard(0)
	return f, nil
}

// Acquire waits for a slot; those who wait are served in the order of their
// arrival. It returns ctx.Err() as soon as ctx ends, and [ErrHeld] when it
// waited in one hold for longer than the Config allows.
func (f *Fleet) Acquire(ctx context.Context) (Slot, error) { return f.acquire(ctx, &f.queue) }

// AcquireFirst is Acquire ahead of all who wait in Acquire, for control requests.
// In a hold it gets the next probe.
func (f *Fleet) AcquireFirst(ctx context.Context) (Slot, error) { return f.acquire(ctx, &f.first) }

func (f *Fleet) acquire(ctx context.Context, q *queue) (Slot, error) {
	if err := ctx.Err(); err != nil {
		return Slot{}, err
	}
	f.mu.Lock()
	now := f.now()
	w := &waiter{arrived: now}
	q.push(w)
	f.waiting++
	f.serve(now)
	if !w.queued { // served at once
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
	if w.queued {
		q.remove(w)
		f.waiting--
	} else if w.err == nil {
		// The slot came at the same moment. If it is a probe, the next in the
		// queue gets another.
		f.unused(now, w.slot)
	}
	f.serve(now)
	f.unlock()
	return Slot{}, ctx.Err()
}

// Report tells what came of a slot. Every slot has to be reported once: a
// probe that is not keeps the next one back for 20 s. An answer that changes
// what the fleet may do goes to Redis at once, and Report waits for it, at
// most 250 ms.
func (f *Fleet) Report(s Slot, a Answer) {
	f.mu.Lock()
	now := f.now()
	urgent := f.answer(now, s, a)
	done := f.flush(urgent)
	f.serve(now)
	f.unlock()
	f.await(done)
}

// answer takes in an answer. It is urgent if it may change the fleet's state.
func (f *Fleet) answer(now instant, s Slot, a Answer) (urgent bool) {
	if a.Kind == Unused {
		f.unused(now, s)
		return s.probe
	}
	f.own.answer(now, s, a)
	e := event{seq: s.seq, text: a.cause()}
	switch a.Kind {
	case Proper:
		e.kind, e.text = "proper", ""
		if a.Link == ControlLink {
			e.text = ControlLink
		}
		f.count(now, e, s.probe || a.Link == ControlLink)
		return s.probe || f.shared.hold(now).reason != ReasonNone
	case Unproven, Unauthorized:
		e.kind = "unproven"
		f.count(now, e, s.probe)
		return s.probe
	case Throttled:
		e.kind, e.wait, e.link = "throttled", retryAfterMicros(a), suspectText(a)
		urgent = true
	case Transient:
		e.kind, e.link = "transient", linkHash(a.Link)
		f.failures++
		f.sendBy = min(f.sendBy, now+transientDelay)
		urgent = s.probe || f.failures >= f.shared.untilOutage
	case Down:
		e.kind = "down"
		urgent = true
	default:
		return false
	}
	f.events = append(f.events, e)
	return urgent
}

// count takes in an answer of a kind of which there are many. Those of one time
// are one event, but for one that has to be alone.
func (f *Fleet) count(now instant, e event, alone bool) {
	e.count, e.at, e.alone = 1, now, alone
	for i := len(f.events) - 1; i >= 0 && !e.alone; i-- {
		last := &f.events[i]
		if last.kind != "proper" && last.kind != "unproven" {
			break
		}
		if last.kind == e.kind && !last.alone {
			if e.at-last.at >= properTime {
				break
			}
			last.count++
			last.seq = max(last.seq, e.seq)
			return
		}
	}
	f.events = append(f.events, e)
}

// unused takes in that nothing was sent with a slot.
func (f *Fleet) unused(now instant, s Slot) {
	if s.probe {
		f.own.answer(now, s, Answer{Kind: Unused})
		f.giveBack(s.seq)
	}
}

// giveBack tells the fleet that nothing is sent with its probe.
func (f *Fleet) giveBack(probe uint64) {
	f.events = append(f.events, event{kind: "unused", seq: probe})
	f.flush(true)
}

func retryAfterMicros(a Answer) micros {
	if !a.HasRetryAfter || a.RetryAfter <= 0 {
		return 0
	}
	return microsOf(a.RetryAfter)
}

// Status returns the fleet's present rate, and the hold that this process is
// under: the fleet's or its own.
func (f *Fleet) Status() Status {
	f.mu.Lock()
	wall, now := f.clock()
	s := Status{
		Ceiling: Rate(f.shared.ceiling),
		Rate:    Rate(f.shared.rate),
		Burst:   f.cfg.Burst,
		Hold:    f.hold(now).at(wall, now),
	}
	f.mu.Unlock()
	return s
}

// HoldOwn begins a hold of this process alone, with the cause that it shows:
// ReasonUnauthorized if the API refuses its key and not only a link, or
// ReasonOutage if it gets no answers of the API, though others do. The first probe
// goes after 1 s; the time between probes doubles to 30 s, or 10 s in an outage.
// A [Proper] answer to a later request with the present key ends the hold.
func (f *Fleet) HoldOwn(reason Reason, cause string) {
	f.mu.Lock()
	now := f.now()
	f.own.begin(now, f.latest, reason, Answer{Cause: cause}.cause())
	f.flush(true) // for those who look at the fleet
	f.serve(now)
	f.unlock()
}

// AwaitHold waits until this process is under a hold for the given reason, and
// returns true: at once if it is already. It returns false when the time is over
// or ctx ends.
func (f *Fleet) AwaitHold(ctx context.Context, reason Reason, within time.Duration) bool {
	over := time.NewTimer(within)
	defer over.Stop()
	for {
		f.mu.Lock()
		is, changed := f.hold(f.now()).reason == reason, f.changed
		f.mu.Unlock()
		if is {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		case <-over.C:
			return f.Status().Hold.Reason == reason
		}
	}
}

// ProbeNow says that the API key has changed. In an unauthorized hold of this
// process a probe may go at once.
func (f *Fleet) ProbeNow() {
	f.mu.Lock()
	now := f.now()
	f.own.keyChanged(now)
	f.serve(now)
	f.unlock()
}

func (f *Fleet) now() instant { return time.Since(f.start) }

func (f *Fleet) clock() (time.Time, instant) {
	wall := time.Now()
	return wall, wall.Sub(f.start)
}

// hold returns the hold that stands in this process's way: the fleet's or its
// own, whichever lasts longer, but a manual one first.
func (f *Fleet) hold(now instant) held {
	shared, own := f.shared.hold(now), f.own.hold(now)
	if own.reason == ReasonNone || shared.reason == ReasonManual || shared.reason != ReasonNone && shared.until > own.until {
		return shared
	}
	return own
}

// serve gives out what has come due, sends home who has waited too long, and
// sets the timer for the rest and Run to work if more is needed. The caller
// holds the lock.
func (f *Fleet) serve(now instant) {
	f.observe(now)
	f.expire(now)
	for f.giveUp(&f.first) <= now {
		f.pop(&f.first, Slot{}, ErrHeld)
	}
	for f.giveUp(&f.queue) <= now {
		f.pop(&f.queue, Slot{}, ErrHeld)
	}
	for f.waiting > 0 && len(f.slots) > 0 && f.slots[0].due <= now {
		s := f.slots[0]
		f.slots = f.slots[1:]
		q := &f.first
		if q.head == nil {
			q = &f.queue
		}
		if slot := f.grant(now, s); slot != (Slot{}) {
			f.pop(q, slot, nil)
		}
	}
	wake := min(f.giveUp(&f.first), f.giveUp(&f.queue))
	switch {
	case len(f.slots) == 0:
	case f.waiting > 0:
		wake = min(wake, f.slots[0].due)
	case f.slots[0].probe:
		wake = min(wake, f.slots[0].due+catchUp+1) // to give it back
	}
	if f.cfg.OnHold != nil {
		wake = min(wake, f.shared.change(now))
	}
	f.wakeTimer.set(now, wake, f.fire)
	f.wakeRun(now)
}

// giveUp returns when the first one in a queue has waited too long in a hold.
func (f *Fleet) giveUp(q *queue) instant {
	if q.head == nil || f.shown.reason == ReasonNone {
		return never
	}
	return max(q.head.arrived, f.shown.since) + f.cfg.giveUpAfter(f.shown)
}

// pop ends the wait of the first one in a queue.
func (f *Fleet) pop(q *queue, slot Slot, err error) {
	q.head.slot, q.head.err = slot, err
	q.pop()
	f.waiting--
}

func (f *Fleet) fire() {
	f.mu.Lock()
	now := f.now()
	if now >= f.timerAt {
		f.timerAt = never // an earlier setting's late call leaves it alone
	}
	f.serve(now)
	f.unlock()
}

// grant hands a slot out, or returns the zero Slot if one of the guards does
// not let it.
func (f *Fleet) grant(now instant, s slot) Slot {
	if f.own.open(now) > now || !f.guard.AllowN(f.start.Add(now), 1) {
		f.lose(s)
		return Slot{}
	}
	f.own.granted(now, s.seq)
	f.latest = max(f.latest, s.seq)
	f.spent++
	return Slot{granted: f.start.Add(now), seq: s.seq, key: f.own.key, probe: s.probe || f.own.on()}
}

// lose gives a reserved slot up.
func (f *Fleet) lose(s slot) {
	if s.probe {
		f.giveBack(s.seq)
	}
}

// expire gives up the slots that are too late.
func (f *Fleet) expire(now instant) {
	for len(f.slots) > 0 && now-f.slots[0].due > catchUp {
		f.lose(f.slots[0])
		f.slots = f.slots[1:]
		if f.waiting == 0 {
			f.wasted++
		}
	}
}

// drop gives up the reserved slots, as a hold has begun: all, or all but the
// fleet's probe.
func (f *Fleet) drop(probes bool) {
	f.slots = slices.DeleteFunc(f.slots, func(s slot) bool {
		if s.probe && !probes {
			return false
		}
		f.lose(s)
		return true
	})
}

// observe notes the begin, change and end of holds.
func (f *Fleet) observe(now instant) {
	was := f.shown.reason
	f.shown = f.hold(now)
	if f.shown.reason == was {
		return
	}
	close(f.changed)
	f.changed = make(chan struct{})
	if f.shown.reason != ReasonNone {
		f.drop(f.own.on())
	}
	if f.cfg.OnHold != nil {
		wall := time.Now()
		f.news = append(f.news, f.shown.at(wall, wall.Sub(f.start)))
	}
}

// unlock releases the lock and has OnHold told what there is to tell, by a
// goroutine of its own: Run must not wait for it.
func (f *Fleet) unlock() {
	if len(f.news) > 0 && !f.telling {
		go func() {
			f.mu.Lock()
			f.holdNotifier.unlock(&f.mu, f.cfg.OnHold)
		}()
	}
	f.mu.Unlock()
}

// setGuard sets the second guard to the fleet's rate or the own flag, whichever
// is lower. Its burst allows for what may have come due in the 5 ms that a slot
// may be late.
func (f *Fleet) setGuard(now instant) {
	limit := f.shared.rate
	if f.paced() {
		limit = f.flag()
	}
	at := f.start.Add(now)
	f.guard.SetLimitAt(at, rate.Limit(limit))
	f.guard.SetBurstAt(at, f.cfg.Burst+1+int(limit*catchUp.Seconds()))
}
