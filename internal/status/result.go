package status

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
)

// Result is how the links of a batch ended, and why.
type Result struct {
	Statuses LinkStatuses  // of the not cancellable links
	Reasons  []ReasonCount // by outcome, the most frequent first
	// Payable counts the links that may still take payments. Unknown is how many of them no
	// answer has shown: they failed, or were never sent.
	Payable, Unknown int64
}

// ReasonCount is what links with one outcome have in common.
type ReasonCount struct {
	Outcome    ledger.Outcome
	HTTPStatus int    // of the last answer; 0: no answer
	Text       string // of the error; "" if there is none
	Links      int64
}

// maxReasons is how many different reasons are counted.
const maxReasons = 1000

// ReadResult reads how the links of a batch ended: 8 bytes per link and the error texts, or nothing
// if all are cancelled.
func ReadResult(ctx context.Context, l *ledger.Ledger, b ledger.Batch) (Result, error) {
	if b.Counts[ledger.Cancelled]+b.Counts[ledger.AlreadyCancelled]+b.Counts[ledger.NotPayable] == b.Total {
		return Result{}, nil
	}
	found, err := l.Snapshot(ctx, b)
	if err != nil {
		return Result{}, err
	}
	return resultOf(found, b), nil
}

func resultOf(found *ledger.Snapshot, b ledger.Batch) Result {
	r := Result{Statuses: LinkStatuses{}}
	counts := map[ReasonCount]int64{}
	for position := range int(b.Total) {
		record := found.Record(position)
		switch o := record.Outcome; o {
		case ledger.Cancelled, ledger.AlreadyCancelled, ledger.NotPayable:
			continue
		case ledger.NotCancellable:
			r.Statuses[found.LinkStatus(record)]++
		case ledger.NotFound, ledger.Rejected, ledger.Failed, ledger.Unknown:
			why := ReasonCount{Outcome: o, HTTPStatus: record.HTTPStatus, Text: found.At(position).Error}
			if _, known := counts[why]; !known && len(counts) >= maxReasons {
				why = ReasonCount{Outcome: o}
			}
			counts[why]++
		}
		r.countPayable(record, found.LinkStatus(record))
	}
	for why, links := range counts {
		why.Links = links
		r.Reasons = append(r.Reasons, why)
	}
	slices.SortFunc(r.Reasons, func(a, b ReasonCount) int {
		return cmp.Or(cmp.Compare(a.Outcome, b.Outcome), cmp.Compare(b.Links, a.Links),
			cmp.Compare(a.HTTPStatus, b.HTTPStatus), cmp.Compare(a.Text, b.Text))
	})
	return r
}

// NotPayable reports whether an outcome of a batch says that a link takes no payments.
func NotPayable(o ledger.Outcome, linkStatus string) bool {
	switch o {
	case ledger.Cancelled, ledger.AlreadyCancelled, ledger.NotFound, ledger.NotPayable:
		return true
	case ledger.NotCancellable:
		return plexy.Ended(linkStatus)
	}
	return false
}

// countPayable counts a link that is not proven to be cancelled, gone or ended.
func (r *Result) countPayable(record ledger.Record, linkStatus string) {
	switch {
	case NotPayable(record.Outcome, linkStatus), plexy.Ended(linkStatus):
		return
	case linkStatus == "" && record.Outcome != ledger.Rejected: // the API refused to cancel that one
		r.Unknown++
	}
	r.Payable++
}

// LinkStatuses counts links by their status.
type LinkStatuses map[string]int64

// String lists the statuses, the most frequent first: expired 40, paid 27.
func (s LinkStatuses) String() string {
	var parts []string
	for _, status := range slices.SortedFunc(maps.Keys(s), func(a, b string) int { return cmp.Or(cmp.Compare(s[b], s[a]), cmp.Compare(a, b)) }) {
		parts = append(parts, fmt.Sprintf("%s %s", cmp.Or(status, "unknown"), humanize.Digits(s[status])))
	}
	return strings.Join(parts, ", ")
}
