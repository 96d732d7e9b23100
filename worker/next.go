package worker

import (
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
)

// A phase says what the next request for a link is for.
type phase uint8

const (
	deleting   phase = iota // a DELETE
	settling                // a GET that shows what the answer to the DELETE meant
	confirming              // a GET on a new connection that repeats plain answers, or does not
	lastLook                // a GET before the link is failed: an attempt may have been applied
	verifying               // a GET of a verification
)

// phaseOf returns the phase of a link. attempts is the maximum number of attempts.
func phaseOf(l *link, attempts int) phase {
	switch {
	case l.confirms:
		return confirming
	case l.verify:
		return verifying
	case l.record.Settling:
		return settling
	case int(l.record.Attempts) >= attempts:
		return lastLook
	}
	return deleting
}

// An action is what a link needs after an answer.
type action uint8

const (
	decide        action = iota // the answer is the outcome
	reject                      // the API refuses the link's request to the end: rejected
	acceptPlain                 // plain answers may be the outcome, if they can be trusted
	endUnknown                  // the status could never be read: not_cancellable, rejected or failed
	endFailed                   // all attempts are used up
	endUnverified               // a verification cannot find out the link's status
	settleNow                   // send the settling GET in this run
	settleLater                 // use up the attempt; the next one is a settling GET
	confirmNow                  // send the confirming GET in this run
	retry                       // use up the attempt; try again after a backoff
	retryPlain                  // the same, with the fixed delays of plain answers
	retrySoon                   // the same, within this run
	deleteAgain                 // the link is still payable: as retry, with a DELETE
	attribute                   // find out first whether the answer is about this link
	giveBack                    // nothing was sent: try again without using up an attempt
)

// past is what next takes into account beside the answer.
type past struct {
	last       bool // no attempt is left after this one
	plains     int  // plain answers of this kind in a row, with this one
	sameKind   bool // a confirming GET got the kind of answer that it is to confirm
	keyRefused bool // the DELETE was answered 401 or 403
	answered   bool // in this run the API itself answered a DELETE of the link

	verify   bool // the link is only read
	attempts int  // used up before this one
	payable  bool // an earlier GET of the verification showed the link as payable
}

// barredTries is how many refusals to show a link end its verification.
const barredTries = 3

// next decides what a link needs after an answer in a phase.
func next(p phase, v verdict, h past) action {
	shown := v.linkStatus != ""
	switch v.step {
	case stepLocal:
		return giveBack
	case stepAttribute:
		if p == settling && v.status == 403 && v.proven && h.answered {
			return endUnknown // the key may cancel links but not read them
		}
		return attribute
	}
	switch p {
	case settling:
		switch {
		case v.step == stepDone:
			return decide
		case shown && h.keyRefused && h.last:
			return reject
		case shown:
			return deleteAgain
		case h.last:
			return endUnknown
		case v.step == stepPlain:
			return retryPlain
		}
		return retry
	case confirming:
		switch {
		case h.verify && v.step == stepDone:
			return nextVerify(v, h)
		case v.step == stepDone:
			return decide
		case shown:
			return deleteAgain
		case v.step == stepPlain && h.sameKind:
			return acceptPlain
		}
		return retryPlain
	case verifying:
		return nextVerify(v, h)
	case lastLook:
		if v.step == stepDone && plexy.Ended(v.linkStatus) {
			return decide
		}
		return endFailed
	}
	switch {
	case v.step == stepDone:
		return decide
	case v.step == stepSettle:
		return settleNow
	case v.step == stepPlain && h.plains == maxPlains:
		return confirmNow
	case v.step == stepPlain:
		return retryPlain
	}
	return retry
}

// nextVerify decides about a link that is only read.
func nextVerify(v verdict, h past) action {
	switch {
	case v.step == stepDone && v.outcome == ledger.StillPayable && !h.payable && !h.last:
		return retryPlain // a replica of the API may lag behind: it counts when it is seen again
	case v.step == stepDone:
		return decide
	case h.last, v.step == stepBarred && h.attempts+1 >= barredTries:
		return endUnverified
	case v.step == stepPlain && v.status == 404 && h.plains == maxPlains && !h.payable: // the API has shown it
		return confirmNow
	case v.step == stepPlain, v.step == stepBarred:
		return retryPlain
	}
	return retry
}

// nextOfOwn decides about a link's own unattributed answer. last: no attempt is left.
func nextOfOwn(u *unattributed, r ledger.Record, last bool) action {
	refused := u.kind == ratelimit.Unauthorized && u.proven && !u.unclear
	switch {
	case u.phase == verifying && (last || refused && u.repeat):
		return endUnverified
	case u.phase == verifying:
		return retry
	case u.phase == lastLook:
		return endFailed
	case r.Settling && last:
		return endUnknown
	case r.Settling || !refused:
		return retry
	case !u.repeat && !last:
		return retrySoon // the second refusal decides, and a link that is allowed must not wait for it
	case r.Ambiguous:
		return settleLater // an earlier attempt may have been applied
	}
	return reject
}
