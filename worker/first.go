package worker

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
)

const (
	// firstConfirms is how many 204s of a batch must be confirmed, each for another link, until all
	// are believed. One is not enough: somebody else may have canceled that link before.
	firstConfirms = 3
	// firstTries is how many checks may find nothing.
	firstTries = 5
	// firstLooks is how many GETs a check sends while the link is active: a replica may lag.
	firstLooks = 3
	// vagueLooks is how many GETs a check sends while they get a 2xx that shows no link.
	vagueLooks = 20
	firstPause = time.Second
)

// firstCancel checks the first 204s of a batch, one after the other. Meanwhile no other is believed.
type firstCancel struct {
	ok       atomic.Bool // state is firstOK
	mu       sync.Mutex
	state    firstState
	confirms int
	tries    int           // checks that found nothing
	done     chan struct{} // closed when the present check ends
}

type firstState uint8

const (
	firstOpen firstState = iota
	firstLooking
	firstOK
	firstRefuted // a link is still active: no 204 of the batch is believed
)

// firstResult is what a check found.
type firstResult uint8

const (
	firstNothing   firstResult = iota // no GET was answered, or the link is gone
	firstConfirmed                    // the link is canceled
	firstUnclear                      // it is, perhaps by an earlier attempt
	firstDenied                       // it ended in another way: its 204 canceled nothing
	firstActive                       // it is still active
	firstNoReading                    // the key may not read links
)

// begin returns the state. mine: the caller must check and call end. Else wait for wait.
func (f *firstCancel) begin() (state firstState, mine bool, wait <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == firstOpen {
		f.state, f.done = firstLooking, make(chan struct{})
		return firstLooking, true, nil
	}
	return f.state, false, f.done
}

// end records the result of a check. Unless it decides, a later 204 is checked. inVain: the first check
// found nothing.
func (f *firstCancel) end(r firstResult) (inVain bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = firstOpen
	switch r {
	case firstActive:
		f.state = firstRefuted
	case firstNoReading:
		f.state = firstOK
	case firstConfirmed:
		f.confirms++
	default:
		f.tries++
	}
	if f.confirms >= firstConfirms || f.tries >= firstTries {
		f.state = firstOK
	}
	f.ok.Store(f.state == firstOK)
	close(f.done)
	return r == firstNothing && f.tries == 1 && f.confirms == 0
}

type firstKey struct {
	batch       string
	incarnation int64
}

// believed is part of proof.
func (p *batchProof) believed() bool { return p.first.ok.Load() }

// confirmed is part of proof.
func (p *batchProof) confirmed(fresh bool, show func() verdict) bool {
	for {
		state, mine, wait := p.first.begin()
		switch {
		case mine:
			r := p.lookFirst(fresh, show)
			return r != firstActive && r != firstDenied
		case state == firstOK:
			return true
		case state == firstRefuted:
			return false
		}
		select {
		case <-wait:
		case <-p.w.callCtx.Done():
			return true // the drain has ended: the 204 counts, as documented
		}
	}
}

// lookFirst does the check on behalf of all who wait.
func (p *batchProof) lookFirst(fresh bool, show func() verdict) (r firstResult) {
	defer func() { // also if show panics: the others must not wait forever
		if p.first.end(r) {
			p.w.log.Warn("cannot check whether a 204 cancels: no GET of a cancelled link was answered by the API", "batch", p.batch)
		}
	}()
	if r = p.checkFirst(show); r == firstConfirmed && !fresh {
		r = firstUnclear
	}
	return r
}

// checkFirst sends GETs for a link that was answered 204. A worker that stops
// meanwhile believes no 204, and the next worker settles the link with a GET.
func (p *batchProof) checkFirst(show func() verdict) firstResult {
	active, vague := 0, 0
	for {
		v := show()
		var reason string
		switch {
		case v.status == 403 && v.proven: // a 401 may only mean that the key is being replaced
			p.w.log.Warn("cannot check whether a 204 cancels: the key may not read links", "batch", p.batch, "status", v.status)
			return firstNoReading
		case v.step == stepDone && v.outcome == ledger.Cancelled:
			return firstConfirmed
		case v.step == stepDone && v.outcome == ledger.NotCancellable:
			return firstDenied
		case v.step == stepRetry && v.linkStatus != "":
			if active++; active == firstLooks {
				reason = ReasonUnconfirmed
			}
		case v.step == stepPlain && is2xx(v.status):
			// Something that answers every request with a 2xx also answers 204.
			if vague++; vague == vagueLooks {
				reason = "a link that was answered 204 cannot be read: GET answered " + v.saw
			}
		default:
			return firstNothing
		}
		if reason != "" {
			p.w.stopBatch(p.batch, reason)
			return firstActive
		}
		if !p.w.pause(firstPause) {
			return firstActive
		}
	}
}

// ReasonUnconfirmed is the reason of a pause after a 204 that cancelled nothing.
const ReasonUnconfirmed = "a link that was answered 204 is still active"

// stopBatch pauses a batch because its 204s cannot be believed.
func (w *Worker) stopBatch(batch, reason string) {
	by := history.By{Actor: w.cfg.ID, Reason: reason, Auto: true}
	for {
		_, _, err := w.ledger.Pause(w.callCtx, batch, by)
		if err == nil || errors.Is(err, ledger.ErrNoBatch) || !w.pause(commitPauseMost) {
			return
		}
	}
}
