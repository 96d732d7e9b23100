package ratelimit

// waiter is one call of Acquire that waits. done is closed when slot or err is set.
type waiter struct {
	arrived    instant
	done       chan struct{}
	slot       Slot
	err        error
	queued     bool
	prev, next *waiter
}

// queue holds waiters in order of arrival. Any of them can leave at once.
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

// waiters are the calls of Acquire that wait. Those of AcquireFirst come first.
type waiters struct {
	first, rest queue
	count       int
}

func (ws *waiters) push(q *queue, now instant) *waiter {
	w := &waiter{arrived: now}
	q.push(w)
	ws.count++
	return w
}

func (ws *waiters) remove(q *queue, w *waiter) {
	q.remove(w)
	ws.count--
}

// serve gives a slot to the first waiter.
func (ws *waiters) serve(slot Slot) {
	q := &ws.first
	if q.head == nil {
		q = &ws.rest
	}
	ws.finish(q, slot, nil)
}

// finish ends the wait at the head of a queue.
func (ws *waiters) finish(q *queue, slot Slot, err error) {
	w := q.head
	w.slot, w.err = slot, err
	ws.remove(q, w)
	if w.done != nil {
		close(w.done)
	}
}

// giveUp ends, with ErrHeld, the waits that have lasted too long in a hold. It returns
// when the next one will have.
func (ws *waiters) giveUp(now instant, h held, after instant) instant {
	next := never
	if h.reason == ReasonNone {
		return next
	}
	for _, q := range [...]*queue{&ws.first, &ws.rest} {
		for q.head != nil {
			if at := max(q.head.arrived, h.since) + after; at > now {
				next = min(next, at)
				break
			}
			ws.finish(q, Slot{}, ErrHeld)
		}
	}
	return next
}
