package main

import (
	"fmt"
	"io"
	"strings"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

// allAlike names the outcome of a finished batch whose links are all not_found or
// all rejected, which says more of the request than of the links; "" otherwise.
func allAlike(b ledger.Batch) string {
	for _, o := range [...]ledger.Outcome{ledger.NotFound, ledger.Rejected} {
		if b.Total > 0 && b.Counts[o] == b.Total {
			return o.String()
		}
	}
	return ""
}

// linksExit is the exit code for a finished or paused batch. Outcomes of a paused one may change.
func linksExit(b ledger.Batch, t status.LinkStatuses) int {
	payable := b.Counts[ledger.Failed] + b.Counts[ledger.Rejected] + b.Counts[ledger.Aborted] + t.Payable()
	if payable > 0 || b.Pending() > 0 || b.State == ledger.Paused || allAlike(b) != "" {
		return exitLinks
	}
	return exitFine
}

// printSummary shows the outcomes of a batch as an aligned table.
func printSummary(w io.Writer, b ledger.Batch, t status.LinkStatuses) {
	head := "Batch " + b.ID + " is " + string(b.State)
	switch {
	case !b.Finished.IsZero() && !b.Started.IsZero():
		head += " (" + humanize.Duration(b.Finished.Sub(b.Started)) + ")"
	case b.Reason != "":
		head += " (" + status.Reason(b) + ")"
	}
	if b.Parent != "" {
		head += ", a retry of " + b.Parent
	}
	fmt.Fprintf(w, "%s\n\n", head)
	width := len(humanize.Digits(b.Total))
	row := func(name string, n int64, more string) {
		if more != "" {
			more = "   " + more
		}
		fmt.Fprintf(w, "  %-18s %*s%s\n", name, width, humanize.Digits(n), more)
	}
	for _, o := range ledger.Outcomes {
		more := ""
		if o == ledger.NotCancellable && len(t) > 0 {
			more = t.String()
		}
		row(o.String(), b.Counts[o], more)
	}
	if b.Pending() > 0 {
		row("pending", b.Pending(), "")
	}
	var more []string
	if b.Duplicates > 0 {
		more = append(more, humanize.Plural(b.Duplicates, "duplicate"))
	}
	if b.Invalid > 0 {
		more = append(more, humanize.Plural(b.Invalid, "invalid row"))
	}
	text := ""
	if len(more) > 0 {
		text = "and " + strings.Join(more, ", ")
	}
	fmt.Fprintf(w, "  %s\n", strings.Repeat("─", 19+width))
	row("total", b.Total, text)
}

// canaryHint is what to check when the canary has stopped a batch.
const canaryHint = "wrong base URL, wrong column, or another merchant's links?"
