package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
)

// batchJSON is how a batch is printed with --json.
type batchJSON struct {
	Batch      string           `json:"batch"`
	State      ledger.State     `json:"state"`
	Reason     string           `json:"reason,omitempty"`
	Source     string           `json:"source"`
	Name       string           `json:"name"`
	Parent     string           `json:"parent,omitempty"`
	Total      int64            `json:"total"`
	Pending    int64            `json:"pending"`
	Duplicates int64            `json:"duplicates"`
	Invalid    int64            `json:"invalid"`
	Outcomes   map[string]int64 `json:"outcomes"`
	Created    *time.Time       `json:"created,omitempty"`
	Started    *time.Time       `json:"started,omitempty"`
	Finished   *time.Time       `json:"finished,omitempty"`
	Report     string           `json:"report,omitempty"`
}

func toJSON(b ledger.Batch) batchJSON {
	optional := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	outcomes := map[string]int64{}
	for _, o := range ledger.Outcomes {
		outcomes[o.String()] = b.Counts[o]
	}
	return batchJSON{
		Batch: b.ID, State: b.State, Reason: b.Reason, Source: b.Source, Name: b.Name, Parent: b.Parent,
		Total: b.Total, Pending: b.Pending(), Duplicates: b.Duplicates, Invalid: b.Invalid, Outcomes: outcomes,
		Created: optional(b.Created), Started: optional(b.Started), Finished: optional(b.Finished),
	}
}

// statusCounts counts, beside the outcomes, with which status links were not
// cancellable: one that is still active still takes payments.
type statusCounts map[string]int64

func readStatusCounts(ctx context.Context, l *ledger.Ledger, b ledger.Batch) (statusCounts, error) {
	if b.Counts[ledger.NotCancellable] == 0 {
		return statusCounts{}, nil
	}
	found, err := l.Snapshot(ctx, b)
	if err != nil {
		return nil, err
	}
	return countStatuses(found, b), nil
}

func countStatuses(found *ledger.Snapshot, b ledger.Batch) statusCounts {
	t := statusCounts{}
	for place := range int(b.Total) {
		if r := found.Record(place); r.Outcome == ledger.NotCancellable {
			t[found.LinkStatus(r)]++
		}
	}
	return t
}

// payable is the number of links not cancellable that may still take payments: a
// status that is not known to end a link counts.
func (t statusCounts) payable() (n int64) {
	for status, links := range t {
		if !plexy.Ended(status) {
			n += links
		}
	}
	return n
}

const unknownLinkStatus = "unknown"

func (t statusCounts) String() string {
	var parts []string
	for _, status := range slices.SortedFunc(maps.Keys(t), func(a, b string) int { return cmp.Or(cmp.Compare(t[b], t[a]), cmp.Compare(a, b)) }) {
		name := status
		if name == "" {
			name = unknownLinkStatus
		}
		parts = append(parts, fmt.Sprintf("%s %s", name, groupDigits(t[status])))
	}
	return strings.Join(parts, ", ")
}

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

// linksExit is the exit code that tells of the links of a finished batch, or of one
// that stands still: then its outcomes may not stand, even if every link has one.
func linksExit(b ledger.Batch, t statusCounts) int {
	payable := b.Counts[ledger.Failed] + b.Counts[ledger.Rejected] + b.Counts[ledger.Aborted] + t.payable()
	if payable > 0 || b.Pending() > 0 || b.State == ledger.Paused || allAlike(b) != "" {
		return exitLinks
	}
	return exitFine
}

// printSummary shows what became of a batch, as an aligned table.
func printSummary(w io.Writer, b ledger.Batch, t statusCounts) {
	head := "Batch " + b.ID + " is " + string(b.State)
	switch {
	case !b.Finished.IsZero() && !b.Started.IsZero():
		head += " (" + humanDuration(b.Finished.Sub(b.Started)) + ")"
	case b.Reason != "":
		head += " (" + reasonText(b.Reason) + ")"
	}
	if b.Parent != "" {
		head += ", a retry of " + b.Parent
	}
	fmt.Fprintf(w, "%s\n\n", head)
	width := len(groupDigits(b.Total))
	row := func(name string, n int64, more string) {
		if more != "" {
			more = "   " + more
		}
		fmt.Fprintf(w, "  %-18s %*s%s\n", name, width, groupDigits(n), more)
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
		more = append(more, plural(b.Duplicates, "duplicate"))
	}
	if b.Invalid > 0 {
		more = append(more, plural(b.Invalid, "invalid row"))
	}
	text := ""
	if len(more) > 0 {
		text = "and " + strings.Join(more, ", ")
	}
	fmt.Fprintf(w, "  %s\n", strings.Repeat("─", 19+width))
	row("total", b.Total, text)
}

// reasonText says why a batch is paused.
func reasonText(reason string) string {
	if what, ok := strings.CutPrefix(reason, "canary:"); ok {
		return fmt.Sprintf("canary: %d links in a row were %s", ledger.CanaryRow, what)
	}
	return reason
}

// canaryHint says what to look at when the canary has stopped a batch.
const canaryHint = "wrong base URL, wrong column, or another merchant's links?"
