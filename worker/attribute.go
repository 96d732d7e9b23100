package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"linkcancel/internal/ratelimit"
)

// concernsAll finds out, within about a second, whether an answer concerns all requests.
func (w *Worker) concernsAll(u *unattributed) bool {
	if u.kind == ratelimit.Unauthorized {
		return w.keyConcernsAll(u)
	}
	if w.limiter.AwaitHold(w.stopCtx, ratelimit.ReasonThrottled, attributeSoon) {
		return true
	}
	if !w.lastProven.after(w.stopCtx, u.slot, u.key, 0) {
		w.control.ask(false)
	}
	return w.limiter.AwaitHold(w.stopCtx, ratelimit.ReasonThrottled, maxAttribute-attributeSoon) || w.stopCtx.Err() != nil
}

// keyConcernsAll does this for 401 and 403. Only answers to the same key count.
func (w *Worker) keyConcernsAll(u *unattributed) bool {
	holds := w.keyHolds.Load()
	if w.limiter.AwaitHold(w.stopCtx, ratelimit.ReasonUnauthorized, 0) {
		// A key that may neither list nor read links can only probe with DELETEs. A
		// link that is refused again and again is then refused on its own account.
		if u.repeat && u.slot.Probe() && w.control.blind(u.key) {
			return false
		}
		w.refused(u)
		return true
	}
	if u.key != w.cfg.KeyVersion() { // the key has changed
		return true
	}
	// An API may take a new key a moment after it is in the file. After a hold that has ended meanwhile, what
	// works with the key does not show that it was good before.
	held := func() bool { return !u.slot.Probe() && (u.held || w.keyHolds.Load() != holds) }
	if held() {
		return true
	}
	if w.lastProven.after(w.stopCtx, u.slot, u.key, w.othersSoon()) {
		return held()
	}
	r, ok := w.control.result(w.stopCtx, false, maxAttribute)
	switch {
	case w.stopCtx.Err() != nil:
		return true
	case u.key != w.cfg.KeyVersion(), ok && r.key != u.key:
		return true
	case ok && r.proven && (r.kind == ratelimit.OK || r.kind == ratelimit.Unproven), w.lastProven.after(w.stopCtx, u.slot, u.key, 0):
		return held()
	case !ok || r.kind != ratelimit.Unauthorized:
		u.unclear = true
		return held()
	}
	w.keyHolds.Add(1)
	w.limiter.HoldOwn(ratelimit.ReasonUnauthorized, w.keyCause(u.saw))
	w.refused(u)
	return true
}

// othersSoon is how long other links have to show that the key is good: a few slots.
func (w *Worker) othersSoon() time.Duration {
	slots := 4 * time.Second
	if rate := float64(w.limiter.Status().Rate); rate > 1 {
		slots = time.Duration(float64(slots) / rate)
	}
	return min(max(2*attributeSoon, slots), 2*maxAttribute)
}

// refused counts links that were refused while sending is on hold for the key. If
// the API never answered anything else, the second one reports the key as bad.
func (w *Worker) refused(u *unattributed) {
	if w.cfg.BadKey == nil || w.lastProven.ever() || w.refusals.Add(1) != 2 {
		return
	}
	w.cfg.BadKey(errors.New(w.keyCause(u.saw)))
}

// keyCause adds the source of the key to what the API answered.
func (w *Worker) keyCause(saw string) string {
	if w.cfg.KeySource == "" {
		return saw
	}
	return saw + ", with the key of " + w.cfg.KeySource
}

// lastProven is the latest answer of the API itself, by the number of its slot.
type lastProven struct {
	mu      sync.Mutex
	seq     uint64
	key     uint64
	waiting int
	next    chan struct{} // closed at the next one if waiting > 0
}

func (p *lastProven) set(slot ratelimit.Slot, key uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slot.Seq() > p.seq {
		p.seq, p.key = slot.Seq(), key
	}
	if p.waiting > 0 {
		close(p.next)
		p.waiting = 0
	}
}

// ever says whether there was such an answer.
func (p *lastProven) ever() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seq > 0
}

// had says whether the latest was to a request with this key that got its slot after another one.
func (p *lastProven) had(key, after uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seq > after && p.key == key
}

// after waits for a proof by a request that got its slot later and used the same key.
func (p *lastProven) after(ctx context.Context, slot ratelimit.Slot, key uint64, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		p.mu.Lock()
		if key != 0 && p.key == key && p.seq > slot.Seq() {
			p.mu.Unlock()
			return true
		}
		if p.waiting == 0 {
			p.next = make(chan struct{})
		}
		p.waiting++
		next := p.next
		p.mu.Unlock()
		select {
		case <-next:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
