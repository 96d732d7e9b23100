package ratelimit

import (
	"context"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// A timer fires late, by up to a millisecond or so. What came due while
	// somebody waited is then granted together, if it is not older than
	// catchUp; what is older is given up. The margin pays for it: in a window
	// of W ≥ 1 s come due, and so may be granted, at most
	// 0.995 · rate · (W + 5 ms) + burst − 1 ≤ rate · W + burst − 1 slots.
	catchUp = 5 * time.Millisecond

	// refresh is how often the time of the next slot is computed anew while
	// the rate climbs: at a low rate it lies far ahead.
	refresh = 250 * time.Millisecond
)

// within returns the rate at which slots are given, a margin under the limit.
// Above 1 000/s it is wider: there a millisecond of jitter on the way holds
// more requests than 1 % of jitter allows. fleet_reserve.lua has the same.
func within(limit float64) float64 {
	if limit > 1000 {
		return 0.9925 * limit
	}
	return 0.995 * limit
}

// Local is a limiter for the requests of one process. Its methods may be
// called from many goroutines. It needs no closing: it has no goroutine of its
// own, and a timer only while someone waits or a hold has an end.
type Local struct {
	cfg   Config
	start time.Time // the origin of all instants

	mu     sync.Mutex
	gov    governor
	bucket *rate.Limiter
	limit  float64 // of the bucket, a second; without the margin
	last   instant // of the bucket's latest change
	wanted instant // when last someone waited for a slot to come due
	queue  queue

	alarm
	shown held
	herald
}

// NewLocal returns a limiter that starts at the full rate. It panics on a
// Config out of its bounds, as it is built with values that [ParseRate] checked.
func NewLocal(cfg Config) *Local {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		panic("ratelimit: new local limiter: " + err.Error())
	}
	l := &Local{
		cfg:    cfg,
		start:  time.Now(),
		gov:    newGovernor(float64(cfg.Rate)),
		bucket: rate.NewLimiter(rate.Limit(within(float64(cfg.Rate))), cfg.Burst),
		limit:  float64(cfg.Rate),
		alarm:  alarm{timerAt: never},
		wanted: -1,
	}
	// The bucket starts full; this fixes since when.
	l.bucket.SetLimitAt(l.start, l.bucket.Limit())
	return l
}

// Acquire waits for a slot; those who wait are served in the order of their
// arrival. It returns ctx.Err() as soon as ctx ends, and [ErrHeld] when it
// waited in one hold for longer than the Config allows.
func (l *Local) Acquire(ctx context.Context) (Slot, error) {
	if err := ctx.Err(); err != nil {
		return Slot{}, err
	}
	l.mu.Lock()
	now := l.now()
	if l.queue.head == nil {
		l.advance(now)
		if slot, ok, _ := l.try(now); ok {
			l.unlock()
			return slot, nil
		}
	}
	w := &waiter{arrived: now, done: make(chan struct{})}
	l.queue.push(w)
	if l.queue.head == w {
		l.serve(now)
	}
	l.unlock()

	select {
	case <-w.done:
		return w.slot, w.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	now = l.now()
	if w.queued {
		l.queue.remove(w)
		l.serve(now)
	} else if w.err == nil {
		// The slot came at the same moment. If it is a probe, the next in the
		// queue gets it.
		l.gov.answer(now, w.slot.seq, Answer{Kind: Unused})
		l.serve(now)
	}
	l.unlock()
	return Slot{}, ctx.Err()
}

// Report tells what came of a slot. Every slot has to be reported once: a
// probe that is not keeps the next one back for 20 s.
func (l *Local) Report(slot Slot, a Answer) {
	l.mu.Lock()
	now := l.now()
	l.gov.answer(now, slot.seq, a)
	l.serve(now)
	l.unlock()
}

// Status returns the present rate and hold.
func (l *Local) Status() Status {
	l.mu.Lock()
	wall, now := l.clock()
	l.gov.tick(now)
	s := Status{
		Ceiling: l.cfg.Rate,
		Rate:    Rate(l.gov.rate),
		Burst:   l.cfg.Burst,
		Hold:    l.gov.hold(now).at(wall, now),
	}
	l.unlock()
	return s
}

// HoldManual stops sending until the given time, or, if it is zero, until
// [Local.Release]. It replaces the end of a manual hold that stands.
func (l *Local) HoldManual(until time.Time) {
	l.mu.Lock()
	wall, now := l.clock()
	end := never
	if !until.IsZero() {
		// The bound keeps the sum from overflowing.
		end = now + min(until.Sub(wall), 100*366*24*time.Hour)
	}
	l.gov.holdManual(now, end)
	l.serve(now)
	l.unlock()
}

// Release ends any hold. After an outage the rate climbs from low as ever.
func (l *Local) Release() {
	l.mu.Lock()
	now := l.now()
	l.gov.release(now)
	l.serve(now)
	l.unlock()
}

// ProbeNow lets an unauthorized hold probe at once: the key has changed.
// Without such a hold it does nothing.
func (l *Local) ProbeNow() {
	l.mu.Lock()
	now := l.now()
	l.gov.probeNow(now)
	l.serve(now)
	l.unlock()
}

func (l *Local) now() instant { return time.Since(l.start) }

func (l *Local) clock() (time.Time, instant) {
	wall := time.Now()
	return wall, wall.Sub(l.start)
}

// at returns h in times of the wall clock, which shows wall now.
func (h held) at(wall time.Time, now instant) Hold {
	if h.reason == ReasonNone {
		return Hold{}
	}
	out := Hold{Reason: h.reason, Since: wall.Add(h.since - now)}
	if h.until != never {
		out.Until = wall.Add(h.until - now)
	}
	return out
}

// serve gives out what may be given out, sends home who has waited too long,
// and sets the timer for the rest. The caller holds the lock.
func (l *Local) serve(now instant) {
	if l.queue.head != nil {
		l.wanted = now
	}
	l.advance(now)
	wake := never
	for l.queue.head != nil {
		w := l.queue.head
		giveUp := never
		if l.shown.reason != ReasonNone {
			giveUp = max(w.arrived, l.shown.since) + l.cfg.patience(l.shown.reason)
		}
		if giveUp <= now {
			w.err = ErrHeld
			l.queue.pop()
			continue
		}
		slot, ok, at := l.try(now)
		if !ok {
			wake = min(at, giveUp)
			break
		}
		w.slot = slot
		l.queue.pop()
	}
	if l.queue.head != nil && l.shown.reason == ReasonNone && l.gov.rate < l.gov.ceiling {
		wake = min(wake, now+refresh)
	}
	if l.cfg.OnHold != nil {
		wake = min(wake, l.gov.change(now))
	}
	l.alarm.set(now, wake, l.fire)
}

// advance brings everything up to now.
func (l *Local) advance(now instant) {
	l.gov.tick(now)
	l.observe(now)
	l.adjust(now)
}

// try grants a slot, or returns when to try again (never: not before an
// answer comes). It follows advance.
func (l *Local) try(now instant) (slot Slot, ok bool, again instant) {
	at, probe := l.gov.open(now)
	if at > now {
		return Slot{}, false, at
	}
	due := l.due()
	if due > now {
		return Slot{}, false, due
	}
	due = l.usable(now, due)
	if !l.bucket.AllowN(l.start.Add(due), 1) {
		return Slot{}, false, due + 1 // rounding; not seen in practice
	}
	l.last = due
	return Slot{granted: l.start.Add(now), seq: l.gov.grant(now, probe), probe: probe}, true, 0
}

// due returns when the next slot comes due at the bucket's present limit. It
// may lie in the past.
func (l *Local) due() instant {
	missing := 1 - l.bucket.TokensAt(l.start.Add(l.last))
	if missing <= 0 {
		return l.last
	}
	return l.last + time.Duration(math.Ceil(missing/float64(l.bucket.Limit())*float64(time.Second)))
}

// usable returns the instant for which a slot that came due may be granted now:
// the one at which it came due if only we are late, else now. What came due
// while nobody asked, or too long ago, is lost.
func (l *Local) usable(now, due instant) instant {
	if due > l.wanted || now-due > catchUp {
		return now
	}
	return due
}

// adjust gives the bucket the present rate. Tokens that it has are kept, at
// most the burst: a change mints none. If slots are being caught up it counts
// from the first of them, since the bucket would forget the others.
func (l *Local) adjust(now instant) {
	if l.gov.rate != l.limit {
		l.limit = l.gov.rate
		if due := l.due(); due < now {
			now = l.usable(now, due)
		}
		l.last = max(l.last, now)
		l.bucket.SetLimitAt(l.start.Add(l.last), rate.Limit(within(l.limit)))
	}
}

// observe notes the begin, change and end of holds.
func (l *Local) observe(now instant) {
	was := l.shown.reason
	l.shown = l.gov.hold(now)
	if l.shown.reason == was {
		return
	}
	if l.cfg.OnHold != nil {
		wall := time.Now()
		l.news = append(l.news, l.shown.at(wall, wall.Sub(l.start)))
	}
}

func (l *Local) fire() {
	l.mu.Lock()
	now := l.now()
	if now >= l.timerAt {
		l.timerAt = never // an earlier setting's late call leaves it alone
	}
	l.serve(now)
	l.unlock()
}

// unlock releases the lock and then tells OnHold what there is to tell.
func (l *Local) unlock() { l.herald.unlock(&l.mu, l.cfg.OnHold) }

// waiter is an Acquire that waits. done is closed when slot or err is set.
type waiter struct {
	arrived    instant
	done       chan struct{}
	slot       Slot
	err        error
	queued     bool
	prev, next *waiter
}

// queue holds the waiters in order of arrival; any can leave at once.
type queue struct{ head, tail *waiter }

func (q *queue) push(w *waiter) {
	w.queued, w.prev = true, q.tail
	if q.tail != nil {
		q.tail.next = w
	} else {
		q.head = w
	}
	q.tail = w
}

// pop takes the head out and wakes its goroutine.
func (q *queue) pop() {
	w := q.head
	q.remove(w)
	if w.done != nil {
		close(w.done)
	}
}

func (q *queue) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.tail = w.prev
	}
	w.queued, w.prev, w.next = false, nil, nil
}

// alarm is a timer that is set for an instant.
type alarm struct {
	timer   *time.Timer // nil before its first use
	timerAt instant     // when it fires, or never
}

// set lets fire be called at the given instant, and not before.
func (a *alarm) set(now, at instant, fire func()) {
	switch {
	case at == a.timerAt:
		return
	case at == never:
		a.timer.Stop()
	case a.timer == nil:
		a.timer = time.AfterFunc(at-now, fire)
	default:
		a.timer.Reset(at - now)
	}
	a.timerAt = at
}

// herald passes news of holds on to OnHold, one at a time and in order.
type herald struct {
	news    []Hold
	telling bool // a goroutine is calling OnHold
}

// unlock releases mu, which guards the herald, and then tells the news.
func (h *herald) unlock(mu *sync.Mutex, onHold func(Hold)) {
	if len(h.news) == 0 || h.telling {
		mu.Unlock()
		return
	}
	h.telling = true
	for len(h.news) > 0 {
		news := h.news
		h.news = nil
		mu.Unlock()
		for _, hold := range news {
			onHold(hold)
		}
		mu.Lock()
	}
	h.telling = false
	mu.Unlock()
}
