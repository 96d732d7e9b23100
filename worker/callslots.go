package worker

import (
	"sync"
	"time"
)

const (
	// slowCall is how long a call may take before it frees its slot for another.
	slowCall = 5 * time.Second
)

// callSlots bound what a worker does at the same time. A call that hangs moves to a slow slot, so
// that a few such calls do not slow down the rest. There are as many slow slots as others.
type callSlots struct {
	sender chan struct{} // the slice that sends: one at a time, so that links go out in their order
	calls  chan struct{} // calls in flight
	slow   chan struct{} // calls in flight for longer than slowCall
}

func newCallSlots(concurrency int) callSlots {
	return callSlots{
		sender: make(chan struct{}, 1),
		calls:  make(chan struct{}, concurrency),
		slow:   make(chan struct{}, concurrency),
	}
}

func (s *callSlots) inFlight() int { return len(s.calls) + len(s.slow) }

// callSlot holds the slot of one call.
type callSlot struct {
	slots *callSlots
	timer *time.Timer

	mu    sync.Mutex
	since time.Time
	in    chan struct{} // calls or slow; nil: no slot is held
}

// hold takes over a slot that the caller took from calls.
func (c *callSlot) hold() {
	c.mu.Lock()
	c.in, c.since = c.slots.calls, time.Now()
	c.mu.Unlock()
	if c.timer == nil {
		c.timer = time.AfterFunc(slowCall, c.moveToSlow)
	} else {
		c.timer.Reset(slowCall)
	}
}

func (c *callSlot) moveToSlow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in == nil || time.Since(c.since) < slowCall { // the timer of an earlier call
		return
	}
	select {
	case c.slots.slow <- struct{}{}:
		<-c.in
		c.in = c.slots.slow
	default:
	}
}

func (c *callSlot) release() {
	c.timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	<-c.in
	c.in = nil
}
