package worker

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

// What to do after an answer.
type step uint8

const (
	stepDone      step = iota // the link has its outcome
	stepSettle                // GET the link: only that shows what the answer means
	stepRetry                 // an attempt is used up; try again later
	stepPlain                 // as stepRetry, but several such answers may decide
	stepAttribute             // 401, 403, 429: the link's own trouble, or everybody's
	stepLocal                 // this machine could not send it; no attempt is used up
	stepBarred                // the key may not read the link
)

// verdict is what an answer means: one row of the table of answers.
type verdict struct {
	step       step
	outcome    ledger.Outcome // with stepDone
	ambiguous  bool           // the request may have been applied
	proven     bool           // the API itself gave the answer
	status     int            // HTTP status, 0 without an answer
	linkStatus string
	text       string // why, for the report
	saw        string // what came back, for people
	plain      string // the kind of an unproven answer (plexy.Error.Kind)
	kind       ratelimit.Kind
	retryAfter time.Duration
	hasRetry   bool
	key        uint64 // the version of the key that was sent; 0: it changed meanwhile
}

// Notes that go with an outcome.
const (
	noteGone    = "gone after an unanswered attempt"
	noteUnknown = "the link's status could never be read"
	noteGoneNow = "the API does not know the link"
	// of a verification
	noteSeenOnce = "it was payable once, and its status could not be read again"
	noteStatus   = "a status that linkcancel does not know"
)

// unknownStatus is the link status of a link whose state could never be read.
const unknownStatus = "unknown"

// classifyCancel says what an answer to DELETE means. ambiguous: an earlier
// attempt may have been applied, so a refusal may be the echo of our own cancel.
//
// Only a proven answer decides at once: a 204, or an error in the API's own
// form. Anything else may come from something in front of the API.
func classifyCancel(status int, err error, ambiguous bool) verdict {
	if err == nil {
		if status == 204 {
			return verdict{step: stepDone, outcome: ledger.Cancelled, proven: true, status: status, kind: ratelimit.OK}
		}
		// A proxy's friendly page is no proof.
		return verdict{step: stepSettle, ambiguous: true, status: status, saw: fmt.Sprint(status), kind: ratelimit.Unproven}
	}
	if v, ok := classifyCommon(err); ok {
		return v
	}
	v := classifyError(err)
	switch {
	case v.status == 409, v.status == 410, v.status == 422:
		v.step = stepSettle
	case !v.proven:
		v.step = stepPlain
	case ambiguous:
		v.step = stepSettle
	case v.status == 404:
		v.step, v.outcome = stepDone, ledger.NotFound
	default: // 400, 405 and other 4xx
		v.step, v.outcome = stepDone, ledger.Rejected
	}
	return v
}

// A refusal is the answer to a DELETE that a settling GET is to explain.
type refusal struct {
	status    int
	proven    bool // the API itself gave it
	ambiguous bool // an attempt of ours may have been applied, or got a 2xx
}

// classifySettle says what the answer to the GET means.
func classifySettle(r refusal, link plexy.Link, err error) verdict {
	if err == nil {
		return classifyShown(r, link.Status)
	}
	if v, ok := classifyCommon(err); ok {
		v.ambiguous = false // a GET changes nothing
		return v
	}
	v := classifyError(err)
	switch {
	case v.proven && v.status == 404:
		v.step, v.outcome, v.status, v.text = stepDone, ledger.NotFound, r.status, ""
		if r.ambiguous {
			v.text = noteGone
		}
	case v.proven:
		v.step, v.proven = stepRetry, false // it says nothing about the link; a later GET may
	default:
		v.step = stepPlain
	}
	return v
}

// classifyShown says what it means that a GET shows the link with a status.
func classifyShown(r refusal, status string) verdict {
	v := verdict{step: stepDone, proven: true, status: r.status, linkStatus: status, kind: ratelimit.OK}
	switch {
	case plexy.Cancelled(status) && r.ambiguous:
		v.outcome = ledger.Cancelled
	case plexy.Cancelled(status):
		v.outcome = ledger.AlreadyCancelled
	case is2xx(r.status) && !plexy.Ended(status):
		v.step, v.ambiguous = stepRetry, true
		v.text = fmt.Sprintf("answered %d, but the link is still %s", r.status, status)
	case is2xx(r.status):
		v.outcome = ledger.NotCancellable
	case !r.proven && !plexy.Ended(status):
		// Something in front of the API refused the DELETE, and the link can still be paid.
		v.step = stepRetry
		v.text = fmt.Sprintf("answered %d, not by the API itself, and the link is still %s", r.status, status)
	case r.proven && (r.status == 401 || r.status == 403):
		// It was the key that was refused, and another may be in use by now.
		v.outcome = ledger.NotCancellable
		if !plexy.Ended(status) {
			v.step, v.outcome = stepRetry, ledger.None
			v.text = fmt.Sprintf("answered %d, and the link is still %s", r.status, status)
		}
	case r.proven && isRejection(r.status):
		v.outcome = ledger.Rejected
	default:
		v.outcome = ledger.NotCancellable
	}
	return v
}

// classifyVerify says what the answer to a GET of a verification means. It proves nothing but what it
// shows: a status that we do not know is neither.
func classifyVerify(link plexy.Link, err error) verdict {
	if err == nil {
		v := verdict{step: stepDone, outcome: ledger.Unknown, proven: true, status: 200, linkStatus: link.Status, kind: ratelimit.OK}
		switch {
		case plexy.Ended(link.Status):
			v.outcome = ledger.NotPayable
		case plexy.Active(link.Status):
			v.outcome = ledger.StillPayable
		default:
			v.text = noteStatus
		}
		return v
	}
	if v, ok := classifyCommon(err); ok {
		v.ambiguous = false // a GET changes nothing
		if v.proven && v.status == 403 {
			// A key may cancel links and not read them: that must not stop the other batches.
			v.step, v.kind = stepBarred, ratelimit.Unused
		}
		return v
	}
	v := classifyError(err)
	switch {
	case v.proven && v.status == 404:
		v.step, v.outcome, v.text = stepDone, ledger.NotPayable, noteGoneNow
	case v.proven:
		v.step, v.proven = stepRetry, false // it says nothing about the link
	default:
		v.step = stepPlain
	}
	return v
}

// classifyCommon has the rows that are the same for every request.
func classifyCommon(err error) (verdict, bool) {
	var api *plexy.Error
	if !errors.As(err, &api) {
		var broken *plexy.TransportError
		sent := !errors.As(err, &broken) || broken.Sent
		v := verdict{step: stepRetry, ambiguous: sent, text: err.Error(), saw: err.Error(), kind: ratelimit.Transient}
		if broken != nil && broken.Local && !broken.Sent {
			v.step, v.kind = stepLocal, ratelimit.Unused
		}
		return v, true
	}
	v := classifyError(err)
	switch api.Class() {
	case plexy.Unauthorized:
		v.step, v.kind = stepAttribute, ratelimit.Unauthorized
	case plexy.Throttled:
		v.step, v.kind, v.ambiguous = stepAttribute, ratelimit.Throttled, api.Status == 503
	case plexy.Transient:
		v.step, v.kind, v.ambiguous = stepRetry, ratelimit.Transient, true
	default:
		return verdict{}, false
	}
	return v, true
}

// classifyError copies what an unexpected answer says about itself.
func classifyError(err error) verdict {
	var api *plexy.Error
	errors.As(err, &api)
	v := verdict{
		proven: api.Proven, status: api.Status, text: errorText(api), saw: api.Saw(), plain: api.Kind,
		retryAfter: api.RetryAfter, hasRetry: api.HasRetryAfter, kind: ratelimit.Unproven,
	}
	if v.proven {
		v.kind, v.plain = ratelimit.OK, ""
	}
	return v
}

func is2xx(status int) bool { return status/100 == 2 }

// isRejection: the API refused the request itself, not the link's state.
func isRejection(status int) bool {
	switch status {
	case 404, 409, 410, 422:
		return false
	}
	return status/100 == 3 || status/100 == 4
}

// errorText is what a report says of an API error: code and message, or what came instead.
func errorText(e *plexy.Error) string {
	switch {
	case !e.Proven:
		return e.Saw()
	case e.Code != "" && e.Message != "":
		return "code " + e.Code + ": " + e.Message
	case e.Code != "":
		return "code " + e.Code
	case e.Message != "":
		return e.Message
	}
	return fmt.Sprintf("HTTP %d", e.Status)
}

// plainText says that links get an answer again and again that the API may not have given.
func plainText(saw string, times int) string {
	return strings.TrimSpace(fmt.Sprintf("%s (%d times, not in the API's own form)", saw, times))
}
