package ratelimit

import "container/list"

// waiter is one call of Acquire. If it has to wait, done is closed when it is served.
type waiter struct {
	arrived instant
	served  bool // slot or err is set
	done    chan struct{}
	slot    Slot
	err     error
}

// waiters are the waiting calls of Acquire in order. Those of AcquireFirst come first.
type waiters struct{ first, rest list.List }

func (ws *waiters) count() int { return ws.first.Len() + ws.rest.Len() }

// serve gives a slot to the first waiter.
func (ws *waiters) serve(slot Slot) {
	q := &ws.first
	if q.Len() == 0 {
		q = &ws.rest
	}
	finish(q, slot, nil)
}

// finish ends the wait at the front of a queue.
func finish(q *list.List, slot Slot, err error) {
	w := q.Remove(q.Front()).(*waiter)
	w.slot, w.err, w.served = slot, err, true
	if w.done != nil {
		close(w.done)
	}
}

// giveUp ends waits that were too long in a hold with ErrHeld. It returns when it is next due.
func (ws *waiters) giveUp(now instant, h held, after instant) instant {
	next := never
	if h.reason == ReasonNone {
		return next
	}
	for _, q := range [...]*list.List{&ws.first, &ws.rest} {
		for q.Len() > 0 {
			if at := max(q.Front().Value.(*waiter).arrived, h.since) + after; at > now {
				next = min(next, at)
				break
			}
			finish(q, Slot{}, ErrHeld)
		}
	}
	return next
}
