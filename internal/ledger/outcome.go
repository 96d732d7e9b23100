package ledger

import (
	"fmt"
	"strings"
)

// Outcome is the final result of a link. The numbers are part of the record format.
type Outcome uint8

// All outcomes.
const (
	None             Outcome = 0 // pending
	Cancelled        Outcome = 1 // a 204, or a GET that shows it after an attempt
	AlreadyCancelled Outcome = 2 // cancelled by someone else before
	NotFound         Outcome = 3 // the API does not know the link
	NotCancellable   Outcome = 4 // the API refuses it: paid, expired, …
	Rejected         Outcome = 5 // the API refuses the request itself
	Failed           Outcome = 6 // all attempts failed
	Aborted          Outcome = 7 // the batch was aborted first

	// Of a verification, whose links are only read.
	NotPayable   Outcome = 8  // the API shows that the link takes no payments, or that it is gone
	StillPayable Outcome = 9  // the API shows the link as active, twice
	Unknown      Outcome = 10 // the status cannot be read, or means nothing to us
)

// outcomeNames are also the names of the counters in the batch's hash.
var outcomeNames = [...]string{
	"pending", "cancelled", "already_cancelled", "not_found",
	"not_cancellable", "rejected", "failed", "aborted",
	"not_payable", "still_payable", "unknown",
}

// outcomesLua gives the names to scripts, from index 1.
var outcomesLua = "local outcome_names = {'" + strings.Join(outcomeNames[1:], "', '") + "'}\n"

// CanaryRow is how many not_found or rejected in a row trip a canary: see canary.lua.
const CanaryRow = 50

// Outcomes lists the outcomes of links that are to be cancelled, in display order.
var Outcomes = [...]Outcome{
	Cancelled, AlreadyCancelled, NotFound, NotCancellable, Rejected, Failed, Aborted,
}

// Verdicts lists the outcomes of a verification, in display order.
var Verdicts = [...]Outcome{NotPayable, StillPayable, Unknown, Aborted}

// String returns the name of o in reports, JSON and metrics. None is "pending".
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// ParseOutcome is the inverse of String.
func ParseOutcome(name string) (Outcome, error) {
	for i, n := range outcomeNames {
		if n == name {
			return Outcome(i), nil
		}
	}
	return None, fmt.Errorf("unknown outcome %q", name)
}

// Counts is the number of links for each outcome. None is unused.
type Counts [len(outcomeNames)]int64

// Sum returns the number of links with an outcome.
func (c Counts) Sum() int64 {
	var n int64
	for _, links := range c[1:] {
		n += links
	}
	return n
}
