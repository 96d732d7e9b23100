package ratelimit

import (
	"math"
	"sync"
	"time"
)

// instant is a time since the making of a limiter.
type instant = time.Duration

// never is later than all that happens.
const never instant = math.MaxInt64

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

// wakeTimer is a timer that is set for an instant.
type wakeTimer struct {
	timer   *time.Timer // nil before its first use
	timerAt instant     // when it fires, or never
}

// set lets fire be called at the given instant, and not before.
func (a *wakeTimer) set(now, at instant, fire func()) {
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

// holdNotifier passes news of holds on to OnHold, one at a time and in order.
type holdNotifier struct {
	news    []Hold
	telling bool // a goroutine is calling OnHold
}

// unlock releases mu, which guards the notifier, and then calls onHold for each change.
func (h *holdNotifier) unlock(mu *sync.Mutex, onHold func(Hold)) {
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
