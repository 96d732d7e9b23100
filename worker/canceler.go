package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

const (
	// maxPlains is how many plain answers of one kind, one per attempt, it takes to decide a link.
	// An answer is plain if something other than the API may have given it.
	maxPlains = 3

	// localWait is the delay of a link that this machine could not send.
	localWait = time.Second
)

// plainWaits are the delays after plain answers. The third attempt follows the first by 20 s or
// more, so that a gateway without its backend for a moment cannot decide.
var plainWaits = [...]time.Duration{5 * time.Second, 15 * time.Second, 30 * time.Second}

// plainWait is the delay after plain answer n, with jitter of up to a fifth.
func plainWait(n int) time.Duration {
	wait := plainWaits[min(max(n, 1), len(plainWaits))-1]
	return wait + rand.N(wait/5)
}

// link is a link of a slice while a worker holds it.
type link struct {
	id       string
	position int  // in the chunk
	verify   bool // it is only read
	record   ledger.Record
	plain    string // the kind of the plain answers that record.Plains counts
	status   string // link status for the report
	text     string // error text for the report

	touched      bool          // this run learned something that the ledger must know
	finished     bool          // it has its outcome
	back         bool          // it returns to the queue without using up an attempt
	proven       bool          // the API itself answered about it in this run
	confirms     bool          // the next request is the confirming GET
	wait         time.Duration // before its next attempt
	soon         bool          // the next attempt is made in this run
	unattributed *unattributed // nil: none

	ambiguous int  // attempts of this run that may have been applied
	settled   bool // it took a GET to find out the outcome
}

// unattributed is an answer that concerns either one link or all requests: 401,
// 403, 429, or 503 with Retry-After. Worker.concernsAll finds out which.
type unattributed struct {
	verdict
	slot   ratelimit.Slot
	phase  phase
	repeat bool // the link got the same answer before
	held   bool // sending was on hold for the key when the answer came
	// unclear: nothing showed whether the key is good, so a refusal only uses up an attempt.
	unclear bool
}

// countPlain counts one more plain answer in a row of its kind.
func (l *link) countPlain(kind string) {
	if l.plain != kind || l.record.Plains == 0 {
		l.record.Plains = 0
	}
	l.plain = kind
	l.record.Plains = min(l.record.Plains+1, maxPlains)
}

// giveBack returns the link to the queue without using up an attempt.
func (l *link) giveBack(wait time.Duration) { l.back, l.wait = true, wait }

// canceler advances one link as far as one run can.
type canceler struct {
	api      Canceler
	limiter  Limiter
	attempts int
	observe  Observer
	proof    proof
	key      func() uint64 // Config.KeyVersion

	// gate waits until one request may be sent. Its error ends the link's run.
	gate func() (ratelimit.Slot, error)
	// callCtx is the context of requests, with permit. It outlives the waits and ends with the drain timeout.
	callCtx context.Context
	permit  *ratelimit.Permit
	took    *average // of calls
	// backoff is the delay after attempt n, the same for all links of a slice.
	backoff func(n int) time.Duration

	answered bool // the API itself answered the link's DELETE in this run
}

// proof is what the process knows about the API beyond one link.
type proof interface {
	// answered records an answer, and returns the kind to report to the limiter.
	answered(slot ratelimit.Slot, link, method string, v verdict) ratelimit.Kind
	// proved says whether the base URL is the API's. If not, it sends a control because of saw.
	proved(link, saw string) bool
	// trusted says whether plain answers of a kind may end a link, and if not, why.
	trusted(kind string) (bool, string)
	// believed says whether a 204 of the batch was confirmed, so that all may be
	// believed. If not, confirmed finds out by calling show, which GETs the link.
	believed() bool
	// fresh means that no earlier attempt can have canceled the link.
	confirmed(fresh bool, show func() verdict) bool
}

// run sends requests for l until it has an outcome or must return to the queue.
func (c *canceler) run(l *link, slot ratelimit.Slot) {
	for c.step(l, slot) {
		var err error
		if slot, err = c.gate(); err != nil {
			l.back = true
			return
		}
	}
}

// step sends one request and applies its answer. more: another follows at once.
func (c *canceler) step(l *link, slot ratelimit.Slot) (more bool) {
	r := &l.record
	p, before := phaseOf(l, c.attempts), r.HTTPStatus
	var v verdict
	switch p {
	case deleting:
		v = c.deleteAndNote(l, slot)
	case verifying:
		v = c.getAndNote(l, slot)
	case confirming:
		v = c.get(l, slot, refusal{status: r.HTTPStatus, ambiguous: r.Ambiguous}, true)
	case settling:
		v = c.get(l, slot, refusal{status: r.HTTPStatus, proven: r.Plains == 0, ambiguous: r.Ambiguous}, false)
	case lastLook:
		v = c.get(l, slot, refusal{status: r.HTTPStatus, ambiguous: r.Ambiguous}, false)
	}
	if c.permit.Err != nil { // nothing was sent
		l.back = true
		return false
	}
	l.confirms = false
	past := c.past(l, v)
	past.payable = l.verify && r.Settling
	a := next(p, v, past)
	if a == attribute {
		held := v.kind == ratelimit.Unauthorized && c.limiter.AwaitHold(c.callCtx, ratelimit.ReasonUnauthorized, 0)
		l.unattributed = &unattributed{verdict: v, slot: c.permit.Slot, phase: p, repeat: (p == deleting || p == verifying) && before == v.status, held: held}
		return false
	}
	if l.verify && v.step == stepDone && v.outcome == ledger.StillPayable {
		r.Settling = true // until its outcome
	}
	more = c.apply(a, l, v)
	l.settled = l.finished && p != deleting && !l.verify
	return more
}

func (c *canceler) past(l *link, v verdict) past {
	return past{
		last: int(l.record.Attempts)+1 >= c.attempts, plains: int(l.record.Plains), sameKind: v.plain == l.plain,
		keyRefused: l.record.HTTPStatus == 401 || l.record.HTTPStatus == 403, answered: c.answered,
		verify: l.verify, attempts: int(l.record.Attempts),
	}
}

// apply does what a link needs after the answer v.
func (c *canceler) apply(a action, l *link, v verdict) (more bool) {
	r := &l.record
	attempt := int(r.Attempts) + 1
	switch a {
	case decide:
		c.decide(l, v)
	case reject:
		v.outcome = ledger.Rejected
		c.decide(l, v)
	case acceptPlain:
		if !c.accept(l, v) {
			return c.useAttempt(l, plainWait(maxPlains))
		}
	case endUnknown:
		c.finishUnknown(l)
	case endFailed:
		c.fail(l, v.linkStatus)
	case endUnverified:
		c.finishUnverified(l)
	case settleNow:
		r.Settling, r.Plains = true, 0
		if v.plain != "" {
			l.countPlain(v.plain)
		}
		return true
	case confirmNow:
		l.confirms = true
		return true
	case retry:
		return c.useAttempt(l, c.backoff(attempt))
	case retryPlain:
		return c.useAttempt(l, plainWait(attempt)) // by attempt, because the kind may differ each time
	case deleteAgain:
		r.Settling, r.Ambiguous, l.text = false, r.Ambiguous || v.ambiguous, v.text
		return c.useAttempt(l, c.backoff(attempt))
	case giveBack:
		l.giveBack(localWait)
	}
	return false
}

// applyOwn resolves l.unattributed. held: the answer put sending on hold.
func (c *canceler) applyOwn(l *link, held bool) {
	u, r := l.unattributed, &l.record
	l.unattributed = nil
	if held {
		l.back = true
		return
	}
	last := int(r.Attempts)+1 >= c.attempts
	wait := u.retryAfter
	if !last { // else only the last look follows
		wait = max(wait, c.backoff(int(r.Attempts)+1))
	}
	switch nextOfOwn(u, *r, last) {
	case endFailed:
		c.fail(l, "")
		return
	case endUnknown:
		c.finishUnknown(l)
		return
	case endUnverified:
		c.finishUnverified(l)
		return
	case retrySoon:
		l.soon = true
	case settleLater:
		r.Settling = true
	case reject:
		if c.proof.proved(l.id, u.saw) {
			c.finish(l, verdict{outcome: ledger.Rejected, status: u.status, text: u.text})
			return
		}
	}
	c.useAttempt(l, wait)
}

// useAttempt uses up an attempt. more: it was the last one, and the last look follows.
func (c *canceler) useAttempt(l *link, wait time.Duration) (more bool) {
	l.touched, l.wait = true, wait
	l.record.Attempts++
	return int(l.record.Attempts) >= c.attempts
}

// decide ends the link by a proven answer, unless a 404 of the API may be about the path.
func (c *canceler) decide(l *link, v verdict) {
	r := &l.record
	switch v.outcome {
	case ledger.Cancelled:
		if v.linkStatus == "" && !c.proof.believed() && !c.confirmed(l) {
			r.Settling, r.Ambiguous, r.HTTPStatus = true, true, v.status
			l.back = true
			return
		}
	case ledger.NotFound, ledger.Rejected, ledger.NotPayable:
		// Without a status nothing was sent: the id itself is impossible.
		if v.status != 0 && v.linkStatus == "" && !c.proof.proved(l.id, v.saw) {
			r.HTTPStatus, l.text = v.status, v.text
			l.giveBack(localWait)
			return
		}
	}
	c.finish(l, v)
}

// confirmed says whether the link's 204 may be believed.
func (c *canceler) confirmed(l *link) bool {
	return c.proof.confirmed(!l.record.Ambiguous, func() verdict {
		slot, err := c.gate()
		if err != nil {
			return verdict{step: stepLocal}
		}
		return c.get(l, slot, refusal{status: 204, proven: true, ambiguous: true}, true)
	})
}

// accept ends a link by plain answers, if they may be trusted.
func (c *canceler) accept(l *link, v verdict) bool {
	r := &l.record
	ok, why := c.proof.trusted(l.plain)
	if ok && !c.proof.proved(l.id, v.saw) {
		ok, why = false, "nothing shows that the base URL is the API's"
	}
	if !ok {
		l.text = plainText(v.saw, maxPlains) + ": " + why
		return false
	}
	end := verdict{outcome: ledger.Rejected, status: r.HTTPStatus, text: plainText(v.saw, maxPlains)}
	if r.HTTPStatus == 404 {
		end.outcome = ledger.NotFound
		switch {
		case l.verify:
			end.outcome = ledger.NotPayable
		case r.Ambiguous:
			end.text = noteGone
		}
	}
	r.Plain = true
	c.finish(l, end)
	return true
}

// fail ends a link whose attempts are used up. status is the link status, if a GET showed one.
func (c *canceler) fail(l *link, status string) {
	l.finished, l.touched, l.settled, l.wait = true, true, true, 0
	l.record.Outcome, l.record.Settling, l.status = ledger.Failed, false, status
}

// finishUnknown ends a link whose DELETE was refused and whose status could
// never be read. If something in front of the API may have refused it, the link
// is failed: the request may never have reached the API. If the API refused the request
// itself, such as for its key, the link is rejected.
func (c *canceler) finishUnknown(l *link) {
	end := verdict{outcome: ledger.NotCancellable, status: l.record.HTTPStatus, linkStatus: unknownStatus, text: cmp.Or(l.text, noteUnknown)}
	switch {
	case l.record.Plains > 0, is2xx(end.status):
		end.outcome = ledger.Failed
	case isRejection(end.status) && c.proof.proved(l.id, end.text):
		end.outcome = ledger.Rejected
	case isRejection(end.status):
		end.outcome = ledger.Failed
	}
	l.settled = true
	c.finish(l, end)
	l.text = end.text
}

// finishUnverified ends a link of a verification whose status cannot be found out.
func (c *canceler) finishUnverified(l *link) {
	if l.record.Settling { // to call it unknown would hide that
		c.finish(l, verdict{outcome: ledger.StillPayable, status: l.record.HTTPStatus, linkStatus: "active", text: noteSeenOnce})
		return
	}
	c.finish(l, verdict{outcome: ledger.Unknown, status: l.record.HTTPStatus, text: cmp.Or(l.text, noteUnknown)})
}

// finish gives the link its outcome. It uses up an attempt, except after the last look.
func (c *canceler) finish(l *link, v verdict) {
	r := &l.record
	l.finished, l.touched, l.back, l.wait = true, true, false, 0
	r.Outcome, r.Settling, r.HTTPStatus = v.outcome, false, v.status
	if int(r.Attempts) < c.attempts {
		r.Attempts++
	}
	l.status = v.linkStatus
	switch v.outcome {
	case ledger.Rejected:
		if v.text != "" {
			l.text = v.text // after a settling GET, the text of the DELETE stays
		}
	case ledger.NotCancellable: // the text says why the DELETE was refused
	default:
		l.text = v.text
	}
}

// deleteAndNote sends a DELETE and notes what it may have done.
func (c *canceler) deleteAndNote(l *link, slot ratelimit.Slot) verdict {
	r := &l.record
	v := c.cancel(l, slot)
	if c.permit.Err != nil {
		return v
	}
	l.touched = true
	if v.ambiguous {
		r.Ambiguous = true
		l.ambiguous++
	}
	if v.step != stepDone {
		r.HTTPStatus, l.text = v.status, v.text
	}
	if v.step == stepPlain {
		l.countPlain(v.plain)
	}
	return v
}

// getAndNote sends the GET of a verification and notes what it showed.
func (c *canceler) getAndNote(l *link, slot ratelimit.Slot) verdict {
	v := c.get(l, slot, refusal{}, false)
	if c.permit.Err != nil {
		return v
	}
	l.touched = true
	if v.step != stepLocal {
		l.record.HTTPStatus, l.text = v.status, v.text
	}
	if v.step == stepPlain {
		l.countPlain(v.plain)
	}
	return v
}

func (c *canceler) cancel(l *link, slot ratelimit.Slot) verdict {
	c.permit.Begin(slot)
	ctx := c.callCtx
	if slot.Probe() {
		ctx = plexy.Fresh(ctx)
	}
	key := c.key()
	status, err := c.api.Cancel(ctx, l.id)
	if errors.Is(err, plexy.ErrBadID) {
		c.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		return verdict{step: stepDone, outcome: ledger.Rejected, text: err.Error()}
	}
	if c.permit.Err != nil {
		return verdict{step: stepLocal}
	}
	v := classifyCancel(status, err, l.record.Ambiguous)
	v.key = sameKey(key, c.key())
	c.report(l, "DELETE", v, v.status)
	c.answered = c.answered || v.proven
	return v
}

// get sends a GET for a link; fresh: on a new connection.
func (c *canceler) get(l *link, slot ratelimit.Slot, r refusal, fresh bool) verdict {
	c.permit.Begin(slot)
	ctx := c.callCtx
	if fresh || slot.Probe() {
		ctx = plexy.Fresh(ctx)
	}
	key := c.key()
	found, err := c.api.Get(ctx, l.id)
	if c.permit.Err != nil {
		return verdict{step: stepLocal}
	}
	v := classifySettle(r, found, err)
	if l.verify {
		v = classifyVerify(found, err)
	}
	v.key = sameKey(key, c.key())
	asked := 200
	var api *plexy.Error
	if errors.As(err, &api) {
		asked = api.Status
	} else if err != nil {
		asked = 0
	}
	c.report(l, "GET", v, asked)
	return v
}

// sameKey returns the version of the key that a request was sent with, or 0 if it changed meanwhile.
func sameKey(before, after uint64) uint64 {
	if before != after {
		return 0
	}
	return before
}

// cause describes an answer that may stop sending.
func cause(what string, v verdict) string {
	if v.status == 0 {
		return v.saw // an error that names the request itself
	}
	return fmt.Sprintf("%s answered %s", what, v.saw)
}

// report passes an answer to the metrics and to the limiter.
func (c *canceler) report(l *link, method string, v verdict, status int) {
	slot, took := c.permit.Slot, time.Since(c.permit.Since)
	c.observe.Request(method, status, took)
	c.took.add(took)
	if c.callCtx.Err() != nil { // cut at the end of the drain: says nothing about the API
		c.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		return
	}
	l.proven = l.proven || v.proven && v.kind == ratelimit.OK // not a failure of its own
	answer := ratelimit.Answer{
		Kind: c.proof.answered(slot, l.id, method, v), Link: l.id, Status: status, Repeat: l.record.HTTPStatus == status,
		RetryAfter: v.retryAfter, HasRetryAfter: v.hasRetry,
	}
	if method == "GET" && v.step == stepAttribute && v.status == 403 && v.proven && c.answered {
		answer.Kind = ratelimit.Unused // the key is good for cancelling
	}
	if answer.Kind != ratelimit.OK {
		answer.Cause = cause(method, v)
	}
	c.limiter.Report(slot, answer)
}
