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
	// firstTries is how many 204s of a batch are checked until one is confirmed.
	firstTries = 5
	// firstLooks is how many GETs a check sends while the link is active: a replica may lag.
	firstLooks = 3
	// vagueLooks is how many GETs a check sends while they get a 2xx that shows no link.
	vagueLooks = 20
	firstPause = time.Second
)

// firstCancel checks the first 204 of a batch. Until it ends, no other 204 is believed.
type firstCancel struct {
	ok    atomic.Bool // state is firstOK
	mu    sync.Mutex
	state firstState
	tries int
	done  chan struct{} // closed when the present check ends
}

type firstState uint8

const (
	firstOpen firstState = iota
	firstLooking
	firstOK
	firstRefuted // the link is still active: no 204 of the batch is believed
)

// begin returns the state. mine: the caller must check and call end. Else wait for wait.
func (f *firstCancel) begin() (state firstState, mine bool, wait <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == firstOpen {
		f.state, f.done = firstLooking, make(chan struct{})
		f.tries++
		return firstLooking, true, nil
	}
	return f.state, false, f.done
}

// end records the result of a check. firstOpen means that it found nothing: a later 204 is checked,
// unless there were firstTries checks. inVain: the first check found nothing.
func (f *firstCancel) end(state firstState) (inVain bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state == firstOpen && f.tries >= firstTries {
		state = firstOK
	}
	inVain = f.tries == 1 && state == firstOpen
	f.state = state
	f.ok.Store(state == firstOK)
	close(f.done)
	return inVain
}

type firstKey struct {
	batch       string
	incarnation int64
}

// believed is part of proof.
func (p *batchProof) believed() bool { return p.first.ok.Load() }

// confirmed is part of proof.
func (p *batchProof) confirmed(show func() verdict) bool {
	for {
		state, mine, wait := p.first.begin()
		switch {
		case mine:
			return p.lookFirst(show) != firstRefuted
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
func (p *batchProof) lookFirst(show func() verdict) (state firstState) {
	defer func() { // also if show panics: the others must not wait forever
		if p.first.end(state) {
			p.w.log.Warn("cannot check whether a 204 cancels: no GET of a cancelled link was answered by the API", "batch", p.batch)
		}
	}()
	return p.checkFirst(show)
}

// checkFirst sends GETs for a link that was answered 204. A worker that stops
// meanwhile believes no 204, and the next worker settles the link with a GET.
func (p *batchProof) checkFirst(show func() verdict) firstState {
	active, vague := 0, 0
	for {
		v := show()
		var reason string
		switch {
		case v.status == 403 && v.proven: // a 401 may only mean that the key is being replaced
			p.w.log.Warn("cannot check whether a 204 cancels: the key may not read links", "batch", p.batch, "status", v.status)
			return firstOK
		case v.step == stepDone:
			return firstOK
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
			return firstOpen
		}
		if reason != "" {
			p.w.stopBatch(p.batch, reason)
			return firstRefuted
		}
		if !p.w.pause(firstPause) {
			return firstRefuted
		}
	}
}

// ReasonUnconfirmed is the reason of a pause after a 204 that cancelled nothing.
const ReasonUnconfirmed = "a link that was answered 204 is still active"

// stopBatch pauses a batch because its 204s cannot be believed.
func (w *Worker) stopBatch(batch, reason string) {
	w.log.Error("batch paused", "batch", batch, "reason", reason)
	by := history.By{Actor: w.cfg.ID, Reason: reason, Auto: true}
	for {
		_, _, err := w.ledger.Pause(w.callCtx, batch, by)
		if err == nil || errors.Is(err, ledger.ErrNoBatch) || !w.pause(commitPauseMost) {
			return
		}
	}
}
