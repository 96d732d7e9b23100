package ratelimit

import "time"

// Permit is the slot of a request that may have to open a connection first. It is a plexy.Permit: a slot
// that is too old when the connection is there is replaced.
type Permit struct {
	Slot    Slot
	Report  func(Slot, Answer)
	Acquire func() (Slot, error)

	// Err says why there was no other slot. Then nothing was sent, and Slot must not be reported.
	Err error
	// Since is when the request began, without the wait for another slot.
	Since time.Time
}

// Begin is called with the slot of the next request.
func (p *Permit) Begin(slot Slot) { p.Slot, p.Err, p.Since = slot, nil, time.Now() }

// Good reports whether the slot may be used.
func (p *Permit) Good() bool { return !p.Slot.late() }

// Renew waits for another slot.
func (p *Permit) Renew() error {
	p.Report(p.Slot, Answer{Kind: Unused})
	p.Slot, p.Err = p.Acquire()
	p.Since = time.Now()
	return p.Err
}
