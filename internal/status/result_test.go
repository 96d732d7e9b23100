package status

import (
	"testing"

	"linkcancel/internal/ledger"
)

// Only what is proven to be over counts as not payable.
func TestCountPayable(t *testing.T) {
	for _, test := range []struct {
		outcome          ledger.Outcome
		status           string
		payable, unknown int64
	}{
		{ledger.Cancelled, "", 0, 0},
		{ledger.AlreadyCancelled, "cancelled", 0, 0},
		{ledger.NotFound, "", 0, 0},
		{ledger.NotCancellable, "paid", 0, 0},
		{ledger.NotCancellable, "active", 1, 0},
		{ledger.NotCancellable, "unknown", 1, 0},
		{ledger.NotCancellable, "", 1, 1},
		{ledger.Rejected, "", 1, 0},
		{ledger.Failed, "", 1, 1},
		{ledger.Failed, "expired", 0, 0},
		{ledger.Aborted, "", 1, 1},
		{ledger.None, "", 1, 1},
	} {
		var r Result
		r.countPayable(ledger.Record{Outcome: test.outcome}, test.status)
		if r.Payable != test.payable || r.Unknown != test.unknown {
			t.Errorf("%v with status %q: payable %d, unknown %d", test.outcome, test.status, r.Payable, r.Unknown)
		}
	}
}
