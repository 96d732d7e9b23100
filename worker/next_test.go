package worker

import (
	"fmt"
	"strings"
	"testing"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

// TestNext has a row for each combination of phase, answer and past that
// matters, so that the whole decision can be read in one place.
func TestNext(t *testing.T) {
	t.Parallel()
	active, cancelled := "active", "cancelled"
	for _, c := range []struct {
		phase phase
		step  step
		shown string // the link status that a GET showed
		past
		want action
	}{
		{deleting, stepDone, "", past{}, decide},
		{deleting, stepSettle, "", past{}, settleNow},
		{deleting, stepSettle, "", past{last: true}, settleNow},
		{deleting, stepRetry, "", past{}, retry},
		{deleting, stepRetry, "", past{last: true}, retry}, // the last look follows
		{deleting, stepPlain, "", past{plains: 1}, retryPlain},
		{deleting, stepPlain, "", past{plains: maxPlains - 1, last: true}, retryPlain},
		{deleting, stepPlain, "", past{plains: maxPlains}, confirmNow},
		{deleting, stepAttribute, "", past{}, attribute},
		{deleting, stepLocal, "", past{last: true}, giveBack},

		{settling, stepDone, cancelled, past{}, decide},
		{settling, stepDone, "", past{}, decide}, // 404
		{settling, stepRetry, "", past{}, retry},
		{settling, stepRetry, "", past{last: true}, endUnknown},
		{settling, stepRetry, active, past{}, deleteAgain},
		{settling, stepRetry, active, past{last: true}, deleteAgain}, // the last look follows
		{settling, stepRetry, active, past{keyRefused: true}, deleteAgain},
		{settling, stepRetry, active, past{keyRefused: true, last: true}, reject},
		{settling, stepPlain, "", past{plains: maxPlains}, retryPlain},
		{settling, stepPlain, "", past{last: true}, endUnknown},
		{settling, stepAttribute, "", past{}, attribute},
		{settling, stepLocal, "", past{last: true}, giveBack},

		{confirming, stepDone, cancelled, past{}, decide},
		{confirming, stepRetry, active, past{}, deleteAgain},
		{confirming, stepRetry, "", past{sameKind: true}, retryPlain},
		{confirming, stepPlain, "", past{sameKind: true}, acceptPlain},
		{confirming, stepPlain, "", past{}, retryPlain},
		{confirming, stepAttribute, "", past{sameKind: true}, attribute},
		{confirming, stepLocal, "", past{}, giveBack},

		{lastLook, stepDone, cancelled, past{last: true}, decide},
		{lastLook, stepDone, active, past{last: true}, endFailed},
		{lastLook, stepDone, "", past{last: true}, endFailed}, // 404: may be a new link's
		{lastLook, stepRetry, active, past{last: true}, endFailed},
		{lastLook, stepRetry, "", past{last: true}, endFailed},
		{lastLook, stepPlain, "", past{last: true}, endFailed},
		{lastLook, stepAttribute, "", past{last: true}, attribute},
		{lastLook, stepLocal, "", past{last: true}, giveBack},
	} {
		if got := next(c.phase, verdict{step: c.step, linkStatus: c.shown}, c.past); got != c.want {
			t.Errorf("phase %d, step %d, shown %q, %+v: action %d, want %d", c.phase, c.step, c.shown, c.past, got, c.want)
		}
	}

	// A key that cancels links but may not read them.
	forbidden := verdict{step: stepAttribute, status: 403, proven: true}
	for _, c := range []struct {
		phase    phase
		v        verdict
		answered bool
		want     action
	}{
		{settling, forbidden, true, endUnknown},
		{settling, forbidden, false, attribute},
		{settling, verdict{step: stepAttribute, status: 403}, true, attribute},
		{settling, verdict{step: stepAttribute, status: 401, proven: true}, true, attribute},
		{confirming, forbidden, true, attribute},
		{lastLook, forbidden, true, attribute},
	} {
		if got := next(c.phase, c.v, past{answered: c.answered}); got != c.want {
			t.Errorf("phase %d, %d: action %d, want %d", c.phase, c.v.status, got, c.want)
		}
	}
}

// TestNextOfOwn goes through every combination: the facts are few.
func TestNextOfOwn(t *testing.T) {
	t.Parallel()
	for bits := range 1 << 7 {
		is := func(n int) bool { return bits>>n&1 == 1 }
		u := &unattributed{verdict: verdict{kind: ratelimit.Throttled, proven: is(1)}, repeat: is(2), unclear: is(3)}
		if is(0) {
			u.kind = ratelimit.Unauthorized
		}
		r := ledger.Record{Settling: is(4), Ambiguous: is(5)}
		last := is(6)
		refused := is(0) && is(1) && !is(3)

		want := retry
		switch {
		case r.Settling && last:
			want = endUnknown
		case r.Settling, !refused:
		case !u.repeat && !last:
			want = retrySoon
		case r.Ambiguous:
			want = settleLater
		default:
			want = reject
		}
		got := nextOfOwn(u, r, last)
		if got != want {
			t.Errorf("%s: action %d, want %d", strings.TrimSpace(fmt.Sprintf("%07b", bits)), got, want)
		}
		// Whatever else is true: a link that may have been cancelled is never
		// rejected, and only an answer of the API to the key rejects one.
		if got == reject && (r.Ambiguous || !refused) {
			t.Errorf("%07b: rejected", bits)
		}
		u.phase = lastLook
		if got := nextOfOwn(u, r, last); got != endFailed {
			t.Errorf("%07b after the last look: action %d", bits, got)
		}
	}
}
