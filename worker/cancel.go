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
	backoffUnit = 2 * time.Second
	backoffMost = 15 * time.Minute

	// plainsMost is how many unproven answers of one kind, one attempt each, may
	// decide about a link.
	plainsMost = 3

	// localWait is how long a link waits when this machine could not send it.
	localWait = time.Second
)

// plainWaits are the times before a link that got an unproven answer is tried
// again, after the first such answer, the second, and all later ones. The third
// attempt is 20 s after the first at least: a gateway whose backend is away for
// a moment must not decide.
var plainWaits = [...]time.Duration{5 * time.Second, 15 * time.Second, 30 * time.Second}

// backoff is the delay before attempt n+1, n from 1: uniform between 0 and
// 2 s · 2ⁿ⁻¹, at most 15 min.
func backoff(n int) time.Duration {
	most := backoffMost
	if n < 10 {
		most = min(most, backoffUnit<<max(0, n-1))
	}
	return rand.N(most)
}

// plainWait is the same after unproven answers, with up to a fifth more so that
// the links of a fleet do not come all at once.
func plainWait(plains int) time.Duration {
	wait := plainWaits[min(max(plains, 1), len(plainWaits))-1]
	return wait + rand.N(wait/5)
}

// link is one link of a slice in a worker's hands.
type link struct {
	id       string
	position int // in the chunk
	record   ledger.Record
	plain    string // the kind of the unproven answers that record.Plains counts
	status   string // link status for the report
	text     string // error text for the report

	touched  bool          // what the ledger knows of it has changed in this run
	finished bool          // it has its outcome
	back     bool          // it goes back uncounted
	proven   bool          // the API itself has answered about it in this run
	confirms bool          // a GET on a new connection is to confirm the answer
	wait     time.Duration // before its next attempt
	soon     bool          // the next attempt is made in this run
	trouble  *trouble      // its last answer may be its own trouble; to be resolved

	ambiguous int  // attempts of this run that may have been applied
	settled   bool // it took a GET to find out the outcome
}

// trouble is an answer of which it must be found out whether it is about the
// link or about all requests: 401, 403, 429, or 503 with Retry-After.
type trouble struct {
	verdict
	slot   ratelimit.Slot
	repeat bool // the link got the same answer before
	last   bool // to the last look before the link is failed
	// unclear: nothing showed whether the key is good, so that a refusal uses up
	// an attempt and decides nothing.
	unclear bool
}

// countPlain counts one more unproven answer in a row of its kind.
func (l *link) countPlain(kind string) {
	if l.plain != kind || l.record.Plains == 0 {
		l.record.Plains = 0
	}
	l.plain = kind
	l.record.Plains = min(l.record.Plains+1, plainsMost)
}

// canceler takes one link as far as one run can.
type canceler struct {
	api      Canceler
	limiter  Limiter
	attempts int
	observe  Observer
	proof    proof

	// gate waits until one request may be sent; its error ends the run of the link.
	gate func() (ratelimit.Slot, error)
	// calls is the context of requests, which outlives the waits: it is cut at
	// the end of the drain only.
	calls context.Context
	took  *average // of calls
	// backoff is the delay after attempt n. The links of a slice share it, so
	// that they are tried again together.
	backoff func(n int) time.Duration

	answered bool // the link's DELETE got a proven answer in this run
}

// proof is what the process knows of the API, beyond one link.
type proof interface {
	// answered takes in an answer, and returns what the limiter is to hear of it.
	answered(slot ratelimit.Slot, link, method string, v verdict) ratelimit.Kind
	// proved says whether the base URL has shown that it is the API's. If not, it
	// asks the control; saw is the answer about the link that asks for the proof.
	proved(link, saw string) bool
	// trusted says whether unproven answers of a kind may end a link, else why not.
	trusted(kind string) (bool, string)
	// believed says whether a 204 of the batch has been confirmed, so that all may
	// be believed. If not, confirmed finds out, by show, which GETs the link.
	believed() bool
	confirmed(show func() verdict) bool
}

// run sends what has to be sent for l, beginning with slot, until the link has
// an outcome, an attempt is used up, or it has to be given back.
func (c *canceler) run(l *link, slot ratelimit.Slot) {
	for c.step(l, slot) {
		var err error
		if slot, err = c.gate(); err != nil {
			l.back = true
			return
		}
	}
}

// step sends one request. more: another is to follow at once.
func (c *canceler) step(l *link, slot ratelimit.Slot) (more bool) {
	switch {
	case l.confirms:
		return c.confirm(l, slot)
	case l.record.Settling:
		return c.settle(l, slot)
	case int(l.record.Attempts) >= c.attempts:
		return c.lastLook(l, slot)
	}
	return c.delete(l, slot)
}

// delete sends a DELETE.
func (c *canceler) delete(l *link, slot ratelimit.Slot) (more bool) {
	r := &l.record
	repeat := r.HTTPStatus
	v := c.cancel(l, slot)
	if v.ambiguous {
		r.Ambiguous = true
		l.ambiguous++
	}
	l.touched = true
	if v.step == stepDone {
		return c.decide(l, v)
	}
	r.HTTPStatus, l.text = v.status, v.text
	switch v.step {
	case stepSettle:
		r.Settling, r.Plains = true, 0
		if v.plain != "" {
			l.countPlain(v.plain)
		}
		return true
	case stepPlain:
		l.countPlain(v.plain)
		if l.confirms = r.Plains == plainsMost; l.confirms {
			return true
		}
		// By the attempts: each answer may be of another kind.
		return c.used(l, plainWait(int(r.Attempts)+1))
	case stepTrouble:
		l.trouble = &trouble{verdict: v, slot: slot, repeat: repeat == v.status}
		return false
	case stepLocal:
		l.back, l.wait = true, localWait
		return false
	}
	return c.used(l, c.backoff(int(r.Attempts)+1))
}

// decide ends the link by a proven answer, if the base URL is known to be the
// API's: a 404 of its own may only mean that the path is wrong.
func (c *canceler) decide(l *link, v verdict) (more bool) {
	switch v.outcome {
	case ledger.Cancelled:
		if v.linkStatus == "" && !c.proof.believed() && !c.confirmed(l) {
			l.record.Settling, l.record.Ambiguous, l.record.HTTPStatus = true, true, v.status
			l.back = true
			return false
		}
	case ledger.NotFound, ledger.Rejected:
		// Without a status nothing was sent: the id itself is impossible.
		if v.status != 0 && !c.proof.proved(l.id, v.saw) {
			l.record.HTTPStatus, l.text = v.status, v.text
			l.back, l.wait = true, localWait
			return false
		}
	}
	c.finish(l, v)
	return false
}

// confirmed says whether the link's 204 may be believed.
func (c *canceler) confirmed(l *link) bool {
	return c.proof.confirmed(func() verdict {
		slot, err := c.gate()
		if err != nil {
			return verdict{step: stepLocal}
		}
		return c.get(l, slot, refusal{status: 204, proven: true, ambiguous: true}, true)
	})
}

// settle asks for a link whose DELETE was refused.
func (c *canceler) settle(l *link, slot ratelimit.Slot) (more bool) {
	r := &l.record
	v := c.get(l, slot, refusal{status: r.HTTPStatus, proven: r.Plains == 0, ambiguous: r.Ambiguous}, false)
	switch v.step {
	case stepDone:
		l.settled = true
		return c.decide(l, v)
	case stepRetry:
		switch {
		case v.linkStatus != "" && (r.HTTPStatus == 401 || r.HTTPStatus == 403) && int(r.Attempts)+1 >= c.attempts:
			l.settled, v.outcome = true, ledger.Rejected // refused to the end
			return c.decide(l, v)
		case v.linkStatus != "":
			return c.stillActive(l, v)
		}
		return c.settleLater(l, c.backoff(int(r.Attempts)+1))
	case stepPlain:
		return c.settleLater(l, plainWait(int(r.Attempts)+1))
	case stepTrouble:
		if v.status == 403 && v.proven && c.answered {
			c.finishUnknown(l) // the key may cancel, but not read
			return false
		}
		l.trouble = &trouble{verdict: v, slot: slot}
		return false
	}
	l.back, l.wait = true, localWait
	return false
}

// stillActive sends the DELETE again later: the GET shows a link that can be
// paid, though the DELETE was answered as if it could not.
func (c *canceler) stillActive(l *link, v verdict) (more bool) {
	r := &l.record
	r.Settling, r.Ambiguous = false, r.Ambiguous || v.ambiguous
	l.text, l.touched = v.text, true
	return c.used(l, c.backoff(int(r.Attempts)+1))
}

// confirm asks, on a new connection, for a link that got unproven answers of one
// kind as often as may decide.
func (c *canceler) confirm(l *link, slot ratelimit.Slot) (more bool) {
	r := &l.record
	l.confirms = false
	v := c.get(l, slot, refusal{status: r.HTTPStatus, ambiguous: r.Ambiguous}, true)
	switch v.step {
	case stepDone:
		l.settled = true
		return c.decide(l, v)
	case stepRetry:
		if v.linkStatus != "" {
			return c.stillActive(l, v)
		}
	case stepPlain:
		if v.plain == l.plain && c.accept(l, v) {
			return false
		}
	case stepTrouble:
		l.trouble = &trouble{verdict: v, slot: slot}
		return false
	case stepLocal:
		l.back, l.wait = true, localWait
		return false
	}
	return c.used(l, plainWait(plainsMost))
}

// accept ends a link by unproven answers, if they may be trusted.
func (c *canceler) accept(l *link, v verdict) bool {
	r := &l.record
	ok, why := c.proof.trusted(l.plain)
	if ok && !c.proof.proved(l.id, v.saw) {
		ok, why = false, "nothing shows that the base URL is the API's"
	}
	if !ok {
		l.text = plainText(v.saw, plainsMost) + ": " + why
		return false
	}
	end := verdict{outcome: ledger.Rejected, status: r.HTTPStatus, text: plainText(v.saw, plainsMost)}
	if r.HTTPStatus == 404 {
		end.outcome = ledger.NotFound
		if r.Ambiguous {
			end.text = noteGone
		}
	}
	l.settled, r.Plain = true, true
	c.finish(l, end)
	return true
}

// used counts an attempt that is used up. more: it was the last, so that a last
// look follows.
func (c *canceler) used(l *link, wait time.Duration) (more bool) {
	l.touched = true
	l.record.Attempts++
	l.wait = wait
	return int(l.record.Attempts) >= c.attempts
}

// settleLater counts an attempt that a settling GET used up. After the last one
// the link ends with an unknown status.
func (c *canceler) settleLater(l *link, wait time.Duration) (more bool) {
	if c.used(l, wait) {
		l.record.Attempts-- // finish counts it
		c.finishUnknown(l)
	}
	return false
}

// lastLook asks for a link before it is called failed: perhaps an unanswered
// attempt was applied, or the link has ended in another way.
func (c *canceler) lastLook(l *link, slot ratelimit.Slot) (more bool) {
	r := &l.record
	v := c.get(l, slot, refusal{status: r.HTTPStatus, ambiguous: r.Ambiguous}, false)
	switch {
	case v.step == stepTrouble:
		l.trouble = &trouble{verdict: v, slot: slot, last: true}
		return false
	case v.step == stepLocal:
		l.back, l.wait = true, localWait
		return false
	case v.step == stepDone && plexy.Ended(v.linkStatus):
		l.settled = true
		r.Attempts-- // finish counts the last one
		c.finish(l, v)
		return false
	}
	c.fail(l, v.linkStatus)
	return false
}

// fail ends a link whose attempts are used up.
func (c *canceler) fail(l *link, status string) {
	l.finished, l.touched, l.settled, l.wait = true, true, true, 0
	l.record.Outcome, l.record.Settling, l.status = ledger.Failed, false, status
}

// resolve ends what began with l.trouble. held: it is the API's or the key's
// state, so that sending is on hold and the link is not to blame.
func (c *canceler) resolve(l *link, held bool) {
	t, r := l.trouble, &l.record
	l.trouble = nil
	if held {
		l.back = true
		return
	}
	if t.last {
		c.fail(l, "")
		return
	}
	l.touched = true
	r.Attempts++
	l.wait = max(c.backoff(int(r.Attempts)), t.retryAfter)
	exhausted := int(r.Attempts) >= c.attempts
	if exhausted {
		l.wait = t.retryAfter // the last look has nothing to wait for but what the API asks
	}
	refused := t.kind == ratelimit.Unauthorized && t.proven && !t.unclear
	switch {
	case r.Settling && exhausted:
		r.Attempts--
		c.finishUnknown(l)
	case refused && !r.Settling && !t.repeat && !exhausted:
		l.soon = true // a second refusal decides, and what is allowed must not wait for it
	case r.Settling || !refused:
	case r.Ambiguous:
		r.Settling = true // an earlier attempt may have been applied: a GET tells
	case c.proof.proved(l.id, t.saw):
		r.Attempts--
		c.finish(l, verdict{outcome: ledger.Rejected, status: t.status, text: t.text})
	}
}

// finishUnknown ends a link whose DELETE was refused and whose status could
// never be read. If something in front of the API may have refused it, the link
// only failed: it may never have reached the API. If the API refused the request
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

func (c *canceler) finish(l *link, v verdict) {
	r := &l.record
	l.finished, l.touched, l.back, l.wait = true, true, false, 0
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
}

func (c *canceler) cancel(l *link, slot ratelimit.Slot) verdict {
	began := time.Now()
	calls := c.calls
	if slot.Probe() {
		calls = plexy.Fresh(calls)
	}
	status, err := c.api.Cancel(calls, l.id)
	if errors.Is(err, plexy.ErrBadID) {
		c.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		return verdict{step: stepDone, outcome: ledger.Rejected, text: err.Error()}
	}
	v := classifyCancel(status, err, l.record.Ambiguous)
	c.report(l, slot, "DELETE", v, v.status, began)
	c.answered = c.answered || v.proven
	return v
}

// get sends a GET for a link; fresh: on a new connection.
func (c *canceler) get(l *link, slot ratelimit.Slot, r refusal, fresh bool) verdict {
	began := time.Now()
	calls := c.calls
	if fresh || slot.Probe() {
		calls = plexy.Fresh(calls)
	}
	found, err := c.api.Get(calls, l.id)
	v := classifySettle(r, found, err)
	asked := 200
	var api *plexy.Error
	if errors.As(err, &api) {
		asked = api.Status
	} else if err != nil {
		asked = 0
	}
	c.report(l, slot, "GET", v, asked, began)
	return v
}

// cause describes, to a person, an answer that may stop sending.
func cause(what string, v verdict) string {
	if v.status == 0 {
		return v.saw // an error that names the request itself
	}
	return fmt.Sprintf("%s answered %s", what, v.saw)
}

// report tells everybody of an answer.
func (c *canceler) report(l *link, slot ratelimit.Slot, method string, v verdict, status int, began time.Time) {
	took := time.Since(began)
	c.observe.Request(method, status, took)
	c.took.add(took)
	if c.calls.Err() != nil { // cut by ourselves: it tells nothing of the API
		c.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		return
	}
	l.proven = l.proven || v.proven && v.kind == ratelimit.Proper // not a failure of its own
	answer := ratelimit.Answer{
		Kind: c.proof.answered(slot, l.id, method, v), Link: l.id, Status: status, Repeat: l.record.HTTPStatus == status,
		RetryAfter: v.retryAfter, HasRetryAfter: v.hasRetry,
	}
	if method == "GET" && v.step == stepTrouble && v.status == 403 && v.proven && c.answered {
		answer.Kind = ratelimit.Unused // the key is good for cancelling
	}
	if answer.Kind != ratelimit.Proper {
		answer.Cause = cause(method, v)
	}
	c.limiter.Report(slot, answer)
}
