package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

const (
	// controlWait is how long a link waits for the control's answer before it is given back.
	controlWait = 3 * time.Second

	// A control is sent after plainRow plain answers in a row, or after plainQuiet without a proven
	// answer, from two links or more. After a good control it takes plainAgain more answers.
	plainRow   = 10
	plainAgain = 30
	plainQuiet = 2 * time.Second

	// attributeSoon is how long other answers may attribute one before a control is sent.
	attributeSoon = 150 * time.Millisecond
	maxAttribute  = time.Second

	// outageSoon is how long the fleet's limiter may take to begin an outage.
	outageSoon = 300 * time.Millisecond

	// maxUnproved is how long to wait for the first evidence before Unproved is called.
	// unprovedSure is the same if the API itself answers that there is no such path.
	maxUnproved  = 20 * time.Second
	unprovedSure = 5 * time.Second
)

// control sends the request that shows whether the API works at all: for a page of the list or a
// link that the API showed before. One is sent at a time, and all callers share it.
type control struct {
	w *Worker

	showing chan struct{} // a mutex for shows
	shownAt time.Time     // when shows last returned true

	mu       sync.Mutex
	flight   *flight // nil: none
	listGood bool    // the list returned a page once
	everGood bool    // a control succeeded once
	// The first control that was refused for the present key, by the number of its slot.
	refusedSeq, refusedKey uint64

	// Plain answers in a row.
	row     int
	links   map[string]struct{} // at most two
	since   time.Time           // of the first
	need    int                 // how many trigger a control
	saw     string              // the latest
	failing time.Time           // when a control first brought no evidence; zero: there is some
}

// flight is one control in flight.
type flight struct {
	done   chan struct{}
	down   bool // if it fails, the API is down, and the fleet must stop
	result controlResult
}

// controlResult is the result of a control.
type controlResult struct {
	good   bool // the API works
	kind   ratelimit.Kind
	proven bool
	key    uint64 // as in verdict
	slot   ratelimit.Slot
	saw    string // what came back
}

func newControl(w *Worker) *control {
	return &control{w: w, need: plainRow, showing: make(chan struct{}, 1)}
}

// ask sends a control unless one is in flight. down: if it fails, the API is down.
func (c *control) ask(down bool) *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != nil {
		c.flight.down = c.flight.down || down
		return c.flight
	}
	f := &flight{done: make(chan struct{}), down: down}
	c.flight = f
	c.w.background.Go(func() { c.fly(f) })
	return f
}

// result asks for a control and waits for its result. ok is false if none came in time.
func (c *control) result(ctx context.Context, down bool, within time.Duration) (r controlResult, ok bool) {
	f := c.ask(down)
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.result, f.result.kind != ratelimit.Unused
	case <-timer.C:
	case <-ctx.Done():
	}
	return controlResult{}, false
}

// fly sends the control: for the list, and if that has never given a page, for a known link.
func (c *control) fly(f *flight) {
	r := c.try(f, "")
	if known := c.w.evidence.some(1); !r.good && r.kind != ratelimit.Unused && r.kind != ratelimit.Throttled && len(known) > 0 && !c.listed() {
		r = c.try(f, known[0])
	}
	c.mu.Lock()
	f.result, c.flight = r, nil
	down := f.down
	if r.good {
		c.everGood = true
		c.row, c.links, c.need = 0, nil, plainAgain
	}
	c.mu.Unlock()
	close(f.done)
	if r.good || !down || r.kind == ratelimit.Unused || r.kind == ratelimit.Throttled {
		return
	}
	// The fleet's limiter holds nobody while others get proven answers. Then this process alone is
	// cut off, unless it got one meanwhile: the key may have no permission for the list.
	switch {
	case c.w.limiter.AwaitHold(c.w.stopCtx, ratelimit.ReasonOutage, outageSoon),
		c.w.limiter.AwaitHold(c.w.stopCtx, ratelimit.ReasonUnauthorized, 0),
		c.w.stopCtx.Err() != nil,
		c.w.lastProven.after(c.w.stopCtx, r.slot, r.key, 0):
	default:
		c.w.limiter.HoldOwn(ratelimit.ReasonOutage, r.saw)
	}
}

// blind says whether a key is good and may neither list nor read links: a control was refused, and a
// later request with the same key worked. A replaced key is refused, too, but nothing works after it.
func (c *control) blind(key uint64) bool {
	c.mu.Lock()
	seq, known := c.refusedSeq, !c.everGood && key != 0 && c.refusedKey == key
	c.mu.Unlock()
	return known && c.w.lastProven.had(key, seq)
}

func (c *control) listed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listGood
}

// try sends one request: for a page of the list, or for a link.
func (c *control) try(f *flight, link string) controlResult {
	w := c.w
	slot, err := c.slot()
	if err != nil {
		return controlResult{kind: ratelimit.Unused}
	}
	permit := &ratelimit.Permit{Report: w.limiter.Report, Acquire: c.slot}
	permit.Begin(slot)
	key := w.cfg.KeyVersion()
	ctx := plexy.WithPermit(plexy.Fresh(w.callCtx), permit)
	what := "GET of the list"
	var page plexy.Page
	if link == "" {
		page, err = w.api.List(ctx, 0, 0)
	} else {
		what = "GET of a link" // which link does not matter
		_, err = w.api.Get(ctx, link)
	}
	if permit.Err != nil {
		return controlResult{kind: ratelimit.Unused}
	}
	slot = permit.Slot
	r, answer := classifyControl(err)
	status := answer.Status
	w.observe.Request("GET", status, time.Since(permit.Since))
	r.key, r.slot = sameKey(key, w.cfg.KeyVersion()), slot
	if !r.good {
		r.saw = cause(what, verdict{status: status, saw: r.saw})
	}
	answer.Link, answer.Cause = ratelimit.ControlLink, r.saw
	c.mu.Lock()
	down := f.down
	c.listGood = c.listGood || r.good && link == ""
	if r.kind == ratelimit.Unauthorized && r.key != c.refusedKey {
		c.refusedSeq, c.refusedKey = slot.Seq(), r.key
	}
	c.mu.Unlock()
	switch {
	case w.callCtx.Err() != nil:
		answer.Kind, r.kind = ratelimit.Unused, ratelimit.Unused
	case r.good:
		w.proved(link)
		for _, listed := range page.Links[:min(len(page.Links), knownAsked)] {
			w.evidence.given(listed.ID)
		}
		w.lastProven.set(slot, r.key)
	case down && (answer.Kind == ratelimit.Unproven || answer.Kind == ratelimit.Transient):
		answer.Kind = ratelimit.Down
	}
	w.limiter.Report(slot, answer)
	return r
}

// showsFor is how long a result of shows is reused.
const showsFor = time.Second

// shows says whether the API still shows links that it showed, listed or cancelled before. If not,
// a missing link may only be out of reach: requests for single links can fail while the list works.
func (c *control) shows() bool {
	select {
	case c.showing <- struct{}{}:
		defer func() { <-c.showing }()
	case <-c.w.stopCtx.Done():
		return false
	}
	if time.Since(c.shownAt) < showsFor {
		return true
	}
	known := c.w.evidence.some(knownAsked)
	if len(known) == 0 {
		// The API may have no links at all. The list shows that.
		if r, ok := c.result(c.w.stopCtx, false, controlWait); !ok || !r.good {
			return false
		}
		known = c.w.evidence.some(knownAsked)
	}
	for _, link := range known {
		if r := c.try(&flight{}, link); !r.good {
			return false
		}
	}
	c.shownAt = time.Now()
	return true
}

// slot waits for a slot ahead of all links.
func (c *control) slot() (ratelimit.Slot, error) {
	for {
		began := time.Now()
		slot, err := c.w.limiter.AcquireFirst(c.w.stopCtx)
		if err == nil {
			c.w.observe.Waited(time.Since(began))
		}
		if err != nil || !slot.Stale() {
			return slot, err
		}
		c.w.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
	}
}

// classifyControl says what the answer to a control means.
func classifyControl(err error) (r controlResult, answer ratelimit.Answer) {
	if err == nil {
		return controlResult{good: true, kind: ratelimit.OK, proven: true}, ratelimit.Answer{Kind: ratelimit.OK, Status: 200}
	}
	v, ok := classifyCommon(err)
	if !ok {
		v = classifyError(err)
		v.kind = ratelimit.Unproven // not what was asked for, whether proven or not
	}
	return controlResult{kind: v.kind, proven: v.proven, saw: v.saw},
		ratelimit.Answer{Kind: v.kind, Status: v.status, RetryAfter: v.retryAfter, HasRetryAfter: v.hasRetry}
}

// proper notes that the API itself answered.
func (c *control) proper() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.row > 0 || c.need != plainRow {
		c.row, c.links, c.need = 0, nil, plainRow
	}
}

// plain notes a plain answer about a link, and sends a control after enough of them.
func (c *control) plain(link, saw string) {
	c.mu.Lock()
	c.saw = saw
	if c.row == 0 {
		c.since, c.links = time.Now(), map[string]struct{}{}
	}
	c.row++
	if len(c.links) < 2 {
		c.links[link] = struct{}{}
	}
	enough := len(c.links) >= 2 && (c.row >= c.need || c.need == plainRow && time.Since(c.since) >= plainQuiet)
	if enough {
		c.row = 0
	}
	c.mu.Unlock()
	switch held := c.w.limiter.Status().Hold.Reason; {
	case !c.w.evidence.ok():
		down := c.w.evidence.deny(link)
		c.w.background.Go(func() {
			if r, ok := c.result(c.w.stopCtx, down, maxUnproved); ok && !r.good && down {
				c.w.unproved(saw, r)
			}
		})
	case enough || held == ratelimit.ReasonOutage:
		// In an outage only the control can show that links are really missing.
		c.ask(true)
	}
}

// provedNow notes the first evidence.
func (c *control) provedNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing = time.Time{}
}

// unproved notes that a control brought no evidence, and calls Unproved if that lasts too long.
func (w *Worker) unproved(saw string, r controlResult) {
	if w.cfg.Unproved == nil {
		return
	}
	c := w.control
	c.mu.Lock()
	first := c.failing.IsZero()
	if first {
		c.failing = time.Now()
	}
	c.mu.Unlock()
	if !first {
		return
	}
	wait := maxUnproved
	if r.proven {
		wait = unprovedSure
	}
	w.background.Go(func() {
		if w.pause(wait) && !w.evidence.ok() {
			w.cfg.Unproved(&UnprovedError{Link: saw, Control: r.saw})
		}
	})
}

// UnprovedError says that nothing has shown that the base URL is the API's.
type UnprovedError struct {
	Link    string // the answer to a request for a link
	Control string // the answer to the request for the list
}

func (e *UnprovedError) Error() string {
	return fmt.Sprintf("this does not look like the payment-links API: %s; %s", e.Link, e.Control)
}
