package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"linkcancel/internal/ratelimit"
)

// troubled finds out what a trouble is: true if sending is on hold for it, within
// about a second, and false if it is the link's own.
func (w *Worker) troubled(t *trouble) bool {
	if t.kind == ratelimit.Unauthorized {
		return w.keyTroubled(t)
	}
	if w.limiter.AwaitHold(w.stopping, ratelimit.ReasonThrottled, troubleSoon) {
		return true
	}
	if !w.proper.after(w.stopping, t.slot, 0) {
		w.control.ask(false)
	}
	return w.limiter.AwaitHold(w.stopping, ratelimit.ReasonThrottled, troubleMost-troubleSoon) || w.stopping.Err() != nil
}

// keyTroubled does so for 401 and 403: only answers to the same key count.
func (w *Worker) keyTroubled(t *trouble) bool {
	if w.limiter.AwaitHold(w.stopping, ratelimit.ReasonUnauthorized, 0) {
		// A key that may neither list nor read has nothing else to probe with: then
		// what is refused again and again is the link's own trouble.
		if t.repeat && t.slot.Probe() && w.control.blind() && w.proper.had(t.slot.Key()) {
			return false
		}
		w.refused(t)
		return true
	}
	if w.proper.after(w.stopping, t.slot, w.othersSoon()) {
		return false
	}
	r, ok := w.control.result(w.stopping, false, troubleMost)
	switch {
	case w.stopping.Err() != nil:
		return true
	case ok && r.key != t.slot.Key(): // the key has changed since
		return true
	case ok && r.proven && (r.kind == ratelimit.Proper || r.kind == ratelimit.Unproven), w.proper.after(w.stopping, t.slot, 0):
		return false
	case !ok || r.kind != ratelimit.Unauthorized:
		t.unclear = true
		return false
	}
	w.limiter.HoldOwn(ratelimit.ReasonUnauthorized, w.keyCause(t.saw))
	w.refused(t)
	return true
}

// othersSoon is how long other links' answers may take to show whether the key is
// good: a few slots at a low rate.
func (w *Worker) othersSoon() time.Duration {
	slots := 4 * time.Second
	if rate := float64(w.limiter.Status().Rate); rate > 1 {
		slots = time.Duration(float64(slots) / rate)
	}
	return min(max(2*troubleSoon, slots), 2*troubleMost)
}

// refused counts links that were refused while sending is on hold for the key.
// If no answer was ever proper, two of them are enough: the key is no good.
func (w *Worker) refused(t *trouble) {
	if w.cfg.BadKey == nil || w.proper.ever() || w.refusals.Add(1) != 2 {
		return
	}
	w.cfg.BadKey(errors.New(w.keyCause(t.saw)))
}

// keyCause says what the API answered, and to which key.
func (w *Worker) keyCause(saw string) string {
	if w.cfg.KeySource == "" {
		return saw
	}
	return saw + ", with the key of " + w.cfg.KeySource
}

// lastProper is the latest proven answer, by the number of its grant.
type lastProper struct {
	mu      sync.Mutex
	seq     uint64
	key     uint64
	waiting int
	news    chan struct{} // closed at the next one, if somebody waits
}

func (p *lastProper) set(slot ratelimit.Slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slot.Seq() > p.seq {
		p.seq, p.key = slot.Seq(), slot.Key()
	}
	if p.waiting > 0 {
		close(p.news)
		p.waiting = 0
	}
}

// ever says whether there was one.
func (p *lastProper) ever() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seq > 0
}

// had says whether there was one with that key.
func (p *lastProper) had(key uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seq > 0 && p.key == key
}

// after waits until there is one to a request that was granted after slot, with
// the same key, for a time at most.
func (p *lastProper) after(ctx context.Context, slot ratelimit.Slot, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		p.mu.Lock()
		if p.seq > slot.Seq() && p.key == slot.Key() {
			p.mu.Unlock()
			return true
		}
		if p.waiting == 0 {
			p.news = make(chan struct{})
		}
		p.waiting++
		news := p.news
		p.mu.Unlock()
		select {
		case <-news:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
