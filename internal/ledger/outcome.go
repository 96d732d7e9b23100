package ledger

import (
	"fmt"
	"strings"
)

// Outcome is the one final result of a link in a batch. The numbers are part
// of the record format and never change their meaning.
type Outcome uint8

// The closed set of outcomes.
const (
	None             Outcome = 0 // no outcome yet: the link is pending
	Cancelled        Outcome = 1 // a 204, or a GET that shows it after an attempt of ours
	AlreadyCancelled Outcome = 2 // cancelled by someone else before us
	NotFound         Outcome = 3 // the API does not know the link
	NotCancellable   Outcome = 4 // the API refuses: paid, expired, …
	Rejected         Outcome = 5 // the API refuses the request itself
	Failed           Outcome = 6 // every attempt failed
	Aborted          Outcome = 7 // the batch was aborted before the link's turn
)

// outcomeNames are also the names of the counters in the batch's hash.
var outcomeNames = [...]string{
	"pending", "cancelled", "already_cancelled", "not_found",
	"not_cancellable", "rejected", "failed", "aborted",
}

// outcomesLua gives the names to scripts, from index 1.
var outcomesLua = "local outcome_names = {'" + strings.Join(outcomeNames[1:], "', '") + "'}\n"

// Outcomes lists the final outcomes in the order in which they are shown.
var Outcomes = [...]Outcome{
	Cancelled, AlreadyCancelled, NotFound, NotCancellable, Rejected, Failed, Aborted,
}

// String returns the name of o as reports, JSON and metrics show it; None is
// "pending".
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// ParseOutcome is the reverse of String.
func ParseOutcome(name string) (Outcome, error) {
	for i, n := range outcomeNames {
		if n == name {
			return Outcome(i), nil
		}
	}
	return None, fmt.Errorf("unknown outcome %q", name)
}

// Counts holds a number of links for each outcome; the entry None is unused.
type Counts [len(outcomeNames)]int64

// Sum is the number of links that have an outcome.
func (c Counts) Sum() int64 {
	var n int64
	for _, o := range Outcomes {
		n += c[o]
	}
	return n
}
