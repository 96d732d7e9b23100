package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

// evidence remembers whether the base URL has ever shown that it is the API's:
// by a 204, by a GET that shows a link, or by a page of the list. Until then a
// 404 or a refusal of its own proves nothing, since the path may be wrong.
type evidence struct {
	ledger *ledger.Ledger
	url    string // "": kept in this process alone

	mu    sync.Mutex
	has   bool
	known []string // links that the API has shown, listed or cancelled, at most knownMost
	next  int      // of known, the one that makes way for a newer

	denied map[string]struct{} // links with an answer that would need evidence, at most deniedMost
	since  time.Time           // of the first of them
}

const (
	// knownMost is how many links are remembered to ask the API for, knownAsked how
	// many are asked for before unproven answers may end a link.
	knownMost  = 8
	knownAsked = 3

	// deniedMost is how many links are sent without evidence before sending stops:
	// the first few of a file may really be missing. After deniedWait fewer do.
	deniedMost = 20
	deniedWait = 3 * time.Second
)

// load asks the ledger for evidence that another process has had.
func (e *evidence) load(ctx context.Context) {
	if e.url == "" {
		return
	}
	api, err := e.ledger.API(ctx)
	if err != nil || api.URL != e.url || api.Proved.IsZero() {
		return // found out again
	}
	e.mu.Lock()
	e.has = true
	e.mu.Unlock()
}

func (e *evidence) ok() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.has
}

// given takes in evidence; link is the link that was shown or cancelled, "" if
// it was a page of the list.
func (e *evidence) given(link string) (first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first = !e.has
	e.has = true
	switch {
	case link == "":
	case len(e.known) < knownMost:
		e.known = append(e.known, link)
	default:
		e.known[e.next] = link
		e.next = (e.next + 1) % knownMost
	}
	return first
}

// some returns links that the API has shown, listed or cancelled before, n at most.
func (e *evidence) some(n int) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := slices.Clone(e.known)
	rand.Shuffle(len(known), func(i, k int) { known[i], known[k] = known[k], known[i] })
	return known[:min(n, len(known))]
}

// deny takes in that a link got an answer that counts only with evidence. enough:
// so many have that sending is to stop if the control brings none.
func (e *evidence) deny(link string) (enough bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.denied == nil {
		e.denied, e.since = map[string]struct{}{}, time.Now()
	}
	if len(e.denied) < deniedMost {
		e.denied[link] = struct{}{}
	}
	return len(e.denied) >= deniedMost || time.Since(e.since) >= deniedWait
}

// write tells the ledger, for the other processes.
func (e *evidence) write(ctx context.Context) error {
	if e.url == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return e.ledger.ProveAPI(ctx, e.url)
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

const (
	// kindLinks is how many links must have got unproven answers of a kind
	// before these may end a link.
	kindLinks = 10
	// firstTries is how many 204s of a batch are looked into at most until one
	// of them is confirmed.
	firstTries = 5
	// firstLooks is how often the link of such a 204 is asked for while it is
	// still shown as active: a copy of the API's database may lag.
	firstLooks = 3
	// vagueLooks is how often it is asked for while a 2xx comes that shows no
	// link: longer than most disturbances last.
	vagueLooks = 20
	firstPause = time.Second
)

// firstCancel checks the first 204 of a batch: while it is looked into, no other
// of the batch is believed.
type firstCancel struct {
	ok    atomic.Bool // state is firstOK
	mu    sync.Mutex
	state firstState
	tries int
	done  chan struct{} // closed when the look that is under way has ended
}

type firstState uint8

const (
	firstOpen firstState = iota
	firstLooking
	firstOK
	firstRefuted // the link is still active: no 204 of the batch is believed
)

// begin says what is known. mine: the caller is to look, and to call end.
// Otherwise wait is closed when there is news.
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

// end takes in what a look found; firstOpen: nothing, so that a later 204 is to
// be looked into, unless it was tried often enough. inVain: so ended the first.
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

// firsts has the checks of the batches in hand.
type firsts struct {
	mu    sync.Mutex
	known map[firstKey]*firstCancel
}

type firstKey struct {
	batch string
	made  int64
}

func (f *firsts) of(batch string, made int64) *firstCancel {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := firstKey{batch, made}
	c := f.known[key]
	if c == nil {
		if len(f.known) > 1000 {
			clear(f.known)
		}
		c = &firstCancel{}
		f.known[key] = c
	}
	return c
}

// batchProof is the proof that a slice's links go by.
type batchProof struct {
	w     *Worker
	batch string
	first *firstCancel
}

// answered is part of proof.
func (p *batchProof) answered(slot ratelimit.Slot, link, method string, v verdict) ratelimit.Kind {
	w := p.w
	if v.step == stepLocal {
		w.lacks.Do(func() { w.log.Warn("cannot send: this machine lacks resources", "error", v.saw) })
	}
	if !v.proven && v.status != 0 && v.kind != ratelimit.Transient {
		w.observe.Unproven(v.status)
	}
	positive := v.outcome == ledger.Cancelled || v.linkStatus != ""
	if positive {
		w.proved(link)
	}
	if v.kind == ratelimit.Proper && !positive && !w.evidence.ok() {
		return ratelimit.Unproven // a proper answer of an API that may be another
	}
	switch v.kind {
	case ratelimit.Proper:
		w.proper.set(slot)
		w.control.proper()
	case ratelimit.Unproven:
		w.control.plain(link, method+" answered "+v.saw)
	}
	return v.kind
}

// proved is part of proof.
func (p *batchProof) proved(link, saw string) bool {
	if p.w.evidence.ok() {
		return true
	}
	enough := p.w.evidence.deny(link)
	r, ok := p.w.control.result(p.w.stopping, enough, controlWait)
	if enough && ok && !r.good {
		p.w.unproved("a link's request was answered "+saw, r)
	}
	return p.w.evidence.ok()
}

// trusted is part of proof.
func (p *batchProof) trusted(kind string) (bool, string) {
	if p.w.cfg.TrustPlain404 {
		return true, ""
	}
	ctx, cancel := context.WithTimeout(p.w.stopping, 2*time.Second)
	defer cancel()
	k, err := p.w.ledger.Kind(ctx, p.batch, kind)
	switch {
	case err != nil:
		return false, "what is known of such answers cannot be read"
	case k.Contradicted:
		return false, "other links got such answers too, and then the API's own"
	case k.Links < kindLinks:
		return false, "too few links got such answers to tell them from a gateway's"
	case !p.w.control.shows():
		return false, "the API does not show links that it has shown before"
	}
	return true, ""
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
		case <-p.w.calls.Done():
			return true // it is at its end: the 204 counts, as documented
		}
	}
}

// lookFirst looks into a 204 for all who wait.
func (p *batchProof) lookFirst(show func() verdict) (state firstState) {
	defer func() { // also if show panics: the others must not wait for ever
		if p.first.end(state) {
			p.w.log.Warn("cannot check whether a 204 cancels: no GET of a cancelled link was answered by the API", "batch", p.batch)
		}
	}()
	return p.look(show)
}

// look asks for a link that was answered 204. A worker that stops meanwhile
// believes no 204: the next one settles the link with a GET.
func (p *batchProof) look(show func() verdict) firstState {
	active, vague := 0, 0
	for {
		v := show()
		var reason string
		switch {
		case v.step == stepTrouble && v.kind == ratelimit.Unauthorized && v.proven:
			p.w.log.Warn("cannot check whether a 204 cancels: the key may not read links", "batch", p.batch, "status", v.status)
			return firstOK
		case v.step == stepDone:
			return firstOK
		case v.step == stepRetry && v.linkStatus != "":
			if active++; active == firstLooks {
				reason = ReasonUnconfirmed
			}
		case v.step == stepPlain && is2xx(v.status):
			// Something that says yes to every request also says 204.
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

// ReasonUnconfirmed is why a batch is paused whose first 204 cancelled nothing.
const ReasonUnconfirmed = "a link that was answered 204 is still active"

// stopBatch pauses a batch whose 204s cannot be believed.
func (w *Worker) stopBatch(batch, reason string) {
	w.log.Error("batch paused", "batch", batch, "reason", reason)
	for {
		_, _, err := w.ledger.Pause(w.calls, batch, reason)
		if err == nil || errors.Is(err, ledger.ErrNoBatch) || !w.pause(commitPauseMost) {
			return
		}
	}
}

// pause waits; false if the worker has to stop meanwhile.
func (w *Worker) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.stopping.Done():
		return false
	}
}

// proved takes in evidence for the base URL.
func (w *Worker) proved(link string) {
	if !w.evidence.given(link) {
		return
	}
	w.control.provedNow()
	w.background.Go(func() {
		if err := w.evidence.write(w.stopping); err != nil && w.stopping.Err() == nil {
			w.log.Warn("cannot write that the API has answered", "error", err)
		}
	})
}

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
