package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

// link is one link of a slice in a worker's hands.
type link struct {
	id       string
	position int // in the chunk
	record   ledger.Record
	status   string // link status for the report
	text     string // error text for the report

	touched  bool // what the ledger knows of it has changed in this run
	finished bool // it has its outcome
	back     bool // it goes back uncounted

	ambiguous int  // attempts of this run that may have been applied
	settled   bool // it took a GET to find out the outcome
}

// canceler takes one link as far as one run can.
type canceler struct {
	api       Canceler
	limiter   Limiter
	attempts  int
	observe   Observer
	forbidden *forbidden
	badKey    func(error) // the very first answer was 401 or 403

	// gate waits until one request may be sent; its error ends the run of the link.
	gate func() (ratelimit.Slot, error)
	// calls is the context of requests, which outlives the waits: it is cut at
	// the end of the drain only.
	calls context.Context
	first func() bool // true for the first answer of the process

	answered bool // the link's DELETE got a proper answer in this run
}

// run sends what has to be sent for l, beginning with slot, until the link has
// an outcome, an attempt is used up, or it has to be given back.
func (c *canceler) run(l *link, slot ratelimit.Slot) {
	r := &l.record
	for {
		switch {
		case r.Settling:
			v := c.get(l, slot)
			switch v.step {
			case stepDone:
				l.settled = true
				c.finish(l, v)
				return
			case stepRetry:
				if v.ambiguous { // answered 2xx, and still active: cancel again
					r.Settling, r.Ambiguous = false, true
				}
				if c.giveUp(l, v) {
					return
				}
			case stepForbidden:
				// The key may cancel, but not read: known at once if the DELETE was
				// answered a moment ago, else by another link's answer.
				if c.answered || c.forbidden.again(l.id) {
					c.finishUnknown(l)
					return
				}
				if c.forbidden.often(l.id) && c.giveUp(l, v) {
					return // with no other link left to tell
				}
			}
		case int(r.Attempts) >= c.attempts:
			// Before it is called failed, one look: perhaps an unanswered attempt
			// was applied.
			v := c.get(l, slot)
			if v.step == stepWait || v.step == stepForbidden && !c.forbidden.again(l.id) && !c.forbidden.often(l.id) {
				break
			}
			l.settled = true
			if v.step == stepDone && plexy.Cancelled(v.linkStatus) {
				v.status = r.HTTPStatus
				r.Attempts-- // finish counts the last one
				c.finish(l, v)
				return
			}
			l.finished, l.touched = true, true
			r.Outcome, r.Settling, l.status = ledger.Failed, false, v.linkStatus
			return
		default:
			v := c.cancel(l, slot)
			if v.ambiguous {
				r.Ambiguous = true
				l.ambiguous++
			}
			l.touched = true
			switch v.step {
			case stepDone:
				c.finish(l, v)
				return
			case stepSettle:
				r.Settling, r.HTTPStatus, l.text = true, v.status, v.text
			case stepRetry:
				r.HTTPStatus, l.text = v.status, v.text
				r.Attempts++
				if int(r.Attempts) < c.attempts {
					return
				}
			case stepForbidden:
				r.HTTPStatus, l.text = v.status, v.text
				if c.forbidden.again(l.id) || c.keyWorks(l) {
					if !r.Ambiguous {
						c.finish(l, verdict{outcome: ledger.Rejected, status: v.status, text: v.text})
						return
					}
					r.Settling = true
				}
			case stepWait:
				r.HTTPStatus, l.text = v.status, v.text
			}
		}
		var err error
		if slot, err = c.gate(); err != nil {
			l.back = true
			return
		}
	}
}

// giveUp counts an attempt that a GET used up. True: this run of the link is over.
func (c *canceler) giveUp(l *link, v verdict) bool {
	r := &l.record
	l.touched = true
	r.Attempts++
	if !r.Settling {
		l.text = v.text
	}
	if int(r.Attempts) < c.attempts {
		return true
	}
	if !r.Settling {
		return false // a last look follows
	}
	r.Attempts--
	c.finishUnknown(l)
	return true
}

// finishUnknown ends a link whose DELETE was refused and whose status could
// never be read.
func (c *canceler) finishUnknown(l *link) {
	status, text := l.record.HTTPStatus, l.text
	l.settled = true
	c.finish(l, verdict{outcome: ledger.NotCancellable, status: status, linkStatus: unknownStatus})
	if l.text = text; text == "" {
		l.text = noteUnknown
	}
}

func (c *canceler) finish(l *link, v verdict) {
	r := &l.record
	l.finished, l.touched = true, true
	r.Outcome, r.Settling, r.HTTPStatus = v.outcome, false, v.status
	r.Attempts = min(r.Attempts+1, 254)
	l.status = v.linkStatus
	switch v.outcome {
	case ledger.Rejected:
		if v.text != "" {
			l.text = v.text // after a settling GET, that of the DELETE stays
		}
	case ledger.NotCancellable: // why the DELETE was refused
	default:
		l.text = v.text
	}
	c.forbidden.forget(l.id)
}

// keyWorks asks, for a link that is forbidden again and again with no other
// link left to tell, whether the key is good for reading it.
func (c *canceler) keyWorks(l *link) bool {
	if !c.forbidden.often(l.id) {
		return false
	}
	slot, err := c.gate()
	if err != nil {
		return false
	}
	v := c.get(l, slot)
	return v.step == stepDone
}

func (c *canceler) cancel(l *link, slot ratelimit.Slot) verdict {
	began := time.Now()
	status, err := c.api.Cancel(c.calls, l.id)
	if errors.Is(err, plexy.ErrBadID) {
		c.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		return verdict{step: stepDone, outcome: ledger.Rejected, text: err.Error()}
	}
	v := classifyCancel(status, err, l.record.Ambiguous)
	c.report(l, slot, "DELETE", v, began, err)
	return v
}

func (c *canceler) get(l *link, slot ratelimit.Slot) verdict {
	began := time.Now()
	found, err := c.api.Get(c.calls, l.id)
	v := classifySettle(l.record.HTTPStatus, l.record.Ambiguous, found, err)
	asked := v
	asked.status = 200
	var api *plexy.Error
	if errors.As(err, &api) {
		asked.status = api.Status
	} else if err != nil {
		asked.status = 0
	}
	c.report(l, slot, "GET", asked, began, err)
	return v
}

func (c *canceler) report(l *link, slot ratelimit.Slot, method string, v verdict, began time.Time, err error) {
	c.observe.Request(method, v.status, time.Since(began))
	answer := v.answer(l.id)
	if c.calls.Err() != nil {
		answer.Kind = ratelimit.Unused // cut by ourselves: it tells nothing of the API
	}
	if method == "GET" && v.step == stepForbidden && c.answered {
		answer.Kind = ratelimit.Unused // the key is good for cancelling
	}
	c.answered = c.answered || answer.Kind == ratelimit.Proper
	c.limiter.Report(slot, answer)
	if c.first() && v.kind == ratelimit.Unauthorized && c.badKey != nil {
		c.badKey(err)
	}
	if v.kind == ratelimit.Proper {
		c.forbidden.proper(l.id)
	}
}

// forbidden remembers which links got 403. One that gets it twice, while
// another link got a proper answer in between, is refused itself; else it is
// the key that is refused.
type forbidden struct {
	mu      sync.Mutex
	answers int // proper answers of links that are not in the list
	since   map[string]*refusal
}

type refusal struct {
	answers int // when it was first refused
	times   int
}

func newForbidden() *forbidden { return &forbidden{since: map[string]*refusal{}} }

// again counts a 403 of a link and says whether the key was proved good since
// the first one.
func (f *forbidden) again(link string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.since[link]
	if r == nil {
		if len(f.since) > 10_000 {
			clear(f.since)
		}
		f.since[link] = &refusal{answers: f.answers, times: 1}
		return false
	}
	r.times++
	return f.answers > r.answers
}

func (f *forbidden) often(link string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.since[link]
	return r != nil && r.times > 1
}

func (f *forbidden) proper(link string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.since[link] == nil {
		f.answers++
	}
}

func (f *forbidden) forget(link string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.since, link)
}
