package worker

import (
	"errors"
	"fmt"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

// What to do after an answer.
type step uint8

const (
	stepDone      step = iota // the link has its outcome
	stepSettle                // GET the link: only that tells what the answer means
	stepRetry                 // an attempt is used up; try again later
	stepWait                  // no attempt is used up; the limiter holds, then send again
	stepForbidden             // as stepWait, but it may be this link's own fault
)

// verdict is what an answer means: one row of the table of answers.
type verdict struct {
	step       step
	outcome    ledger.Outcome // with stepDone
	ambiguous  bool           // the request may have been applied
	status     int            // HTTP status, 0 without an answer
	linkStatus string
	text       string // why, for the report
	kind       ratelimit.Kind
	retryAfter time.Duration
	hasRetry   bool
}

func (v verdict) answer(link string) ratelimit.Answer {
	return ratelimit.Answer{Kind: v.kind, Link: link, RetryAfter: v.retryAfter, HasRetryAfter: v.hasRetry}
}

// Notes that go with an outcome.
const (
	noteGone    = "gone after an unanswered attempt"
	noteUnknown = "the API never told the link's status"
)

// unknownStatus is the link status of a link whose state could never be read.
const unknownStatus = "unknown"

// classifyCancel says what an answer to DELETE means. ambiguous: an earlier
// attempt may have been applied, so a refusal may be the echo of our own cancel.
func classifyCancel(status int, err error, ambiguous bool) verdict {
	if err == nil {
		if status == 204 {
			return verdict{step: stepDone, outcome: ledger.Cancelled, status: status, kind: ratelimit.Proper}
		}
		// A proxy's friendly page is no proof.
		return verdict{step: stepSettle, ambiguous: true, status: status, kind: ratelimit.Proper}
	}
	if v, ok := classifyCommon(err); ok {
		return v
	}
	var api *plexy.Error
	errors.As(err, &api)
	v := verdict{status: api.Status, text: errorText(api), kind: ratelimit.Proper}
	switch {
	case api.Status == 404 && !ambiguous:
		v.step, v.outcome, v.text = stepDone, ledger.NotFound, ""
	case api.Status == 404, api.Status == 422, api.Status == 409, api.Status == 410:
		v.step = stepSettle
	case ambiguous:
		v.step = stepSettle
	default: // 400, 405 and other 4xx; 3xx, which is never followed
		v.step, v.outcome = stepDone, ledger.Rejected
	}
	return v
}

// classifySettle says what the GET tells about a link whose DELETE was answered
// with deleteStatus. ambiguous: an attempt of ours may have been applied, or
// got a 2xx.
func classifySettle(deleteStatus int, ambiguous bool, link plexy.Link, err error) verdict {
	if err == nil {
		v := verdict{step: stepDone, status: deleteStatus, linkStatus: link.Status, kind: ratelimit.Proper}
		switch {
		case plexy.Cancelled(link.Status) && ambiguous:
			v.outcome = ledger.Cancelled
		case plexy.Cancelled(link.Status):
			v.outcome = ledger.AlreadyCancelled
		case is2xx(deleteStatus) && plexy.Active(link.Status):
			v.step, v.ambiguous = stepRetry, true
			v.text = fmt.Sprintf("answered %d, but the link is still active", deleteStatus)
		case isRejection(deleteStatus):
			v.outcome = ledger.Rejected
		default:
			v.outcome = ledger.NotCancellable
		}
		return v
	}
	if v, ok := classifyCommon(err); ok {
		v.ambiguous = false // a GET changes nothing
		return v
	}
	var api *plexy.Error
	errors.As(err, &api)
	v := verdict{status: deleteStatus, kind: ratelimit.Proper}
	if api.Status == 404 {
		v.step, v.outcome = stepDone, ledger.NotFound
		if ambiguous {
			v.text = noteGone
		}
		return v
	}
	// It told nothing of the link; perhaps a later GET does.
	v.step, v.status, v.text = stepRetry, api.Status, errorText(api)
	return v
}

// classifyCommon has the rows that are the same for every request.
func classifyCommon(err error) (verdict, bool) {
	var api *plexy.Error
	if !errors.As(err, &api) {
		var broken *plexy.TransportError
		sent := !errors.As(err, &broken) || broken.Sent
		return verdict{step: stepRetry, ambiguous: sent, text: err.Error(), kind: ratelimit.Transient}, true
	}
	v := verdict{status: api.Status, text: errorText(api), retryAfter: api.RetryAfter, hasRetry: api.HasRetryAfter}
	switch {
	case api.Status == 401:
		v.step, v.kind = stepWait, ratelimit.Unauthorized
	case api.Status == 403:
		v.step, v.kind = stepForbidden, ratelimit.Unauthorized
	case api.Status == 429:
		v.step, v.kind = stepWait, ratelimit.Throttled
	case api.Status == 503 && api.HasRetryAfter:
		v.step, v.kind, v.ambiguous = stepWait, ratelimit.Throttled, true
	case api.Status == 408, api.Status == 425, api.Status >= 500:
		v.step, v.kind, v.ambiguous = stepRetry, ratelimit.Transient, true
	default:
		return verdict{}, false
	}
	return v, true
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

// errorText is what a report says of an API error: code and message.
func errorText(e *plexy.Error) string {
	switch {
	case e.Code != "" && e.Message != "":
		return "code " + e.Code + ": " + e.Message
	case e.Code != "":
		return "code " + e.Code
	case e.Message != "":
		return e.Message
	}
	return fmt.Sprintf("HTTP %d", e.Status)
}
