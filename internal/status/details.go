package status

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
)

// Details is what the records of a batch say about it.
type Details struct {
	Batch
	Statuses  LinkStatuses
	Attempts  map[int]int64 // number of links by attempts, from 1
	Ambiguous int64         // pending links that an unanswered attempt may have cancelled
	Errors    []ErrorKind   // the most frequent first, at most 10
	Rate      float64       // links that ended per second, over Span
	Span      time.Duration // 0: the rate was not measured
}

// ErrorKind is the number of links with one kind of error, and the link that had it last.
type ErrorKind struct {
	Outcome    ledger.Outcome // None: they will be tried again
	HTTPStatus int            // of the last answer; 0: no answer
	Links      int64
	Latest     time.Time
	Link       string
	Error      string
	index      int // of the link, in the batch
}

// rateSpans are the times over which the rate is measured: the first in which enough links ended.
var rateSpans = [...]time.Duration{time.Minute, 15 * time.Minute, time.Hour}

const maxErrorKinds = 10

// ReadDetails reads every record of a batch, 8 bytes per link, for this moment.
func ReadDetails(ctx context.Context, l *ledger.Ledger, b Batch) (Details, error) {
	d := Details{Batch: b}
	found, err := l.Snapshot(ctx, b.Batch)
	if err != nil {
		return d, err
	}
	d.count(found)
	for i := range d.Errors {
		k := &d.Errors[i]
		links, err := l.Links(ctx, b.ID, k.index/ledger.ChunkLinks)
		if err != nil {
			return d, err
		}
		k.Link, k.Error = links[k.index%ledger.ChunkLinks], found.At(k.index).Error
	}
	return d, nil
}

func (d *Details) count(found *ledger.Snapshot) {
	d.Statuses, d.Attempts = countStatuses(found, d.Batch.Batch), map[int]int64{}
	type kind struct {
		outcome ledger.Outcome
		status  int
	}
	kinds := map[kind]*ErrorKind{}
	var ended [len(rateSpans)]int64
	for index := range int(d.Total) {
		r := found.Record(index)
		if r.Attempts > 0 {
			d.Attempts[int(r.Attempts)]++
		}
		if r.Outcome == ledger.None && r.Ambiguous && r.Attempts > 0 {
			d.Ambiguous++
		}
		at := r.Time(d.Created)
		if r.Outcome != ledger.None && r.Outcome != ledger.Aborted {
			for i, span := range rateSpans {
				if d.Fleet.Now.Sub(at) < span {
					ended[i]++
				}
			}
		}
		tried := r.Outcome == ledger.None && (r.Attempts > 0 || r.HTTPStatus > 0)
		if !tried && r.Outcome != ledger.Rejected && r.Outcome != ledger.Failed {
			continue
		}
		k := kinds[kind{r.Outcome, r.HTTPStatus}]
		if k == nil {
			k = &ErrorKind{Outcome: r.Outcome, HTTPStatus: r.HTTPStatus}
			kinds[kind{r.Outcome, r.HTTPStatus}] = k
		}
		k.Links++
		if !at.Before(k.Latest) {
			k.index, k.Latest = index, at
		}
	}
	for _, k := range kinds {
		d.Errors = append(d.Errors, *k)
	}
	slices.SortFunc(d.Errors, func(a, b ErrorKind) int {
		return cmp.Or(cmp.Compare(b.Links, a.Links), cmp.Compare(a.Outcome, b.Outcome), cmp.Compare(a.HTTPStatus, b.HTTPStatus))
	})
	d.Errors = d.Errors[:min(len(d.Errors), maxErrorKinds)]
	d.measure(ended)
}

// measure chooses the time over which the rate is measured, since the start or resume at most.
func (d *Details) measure(ended [len(rateSpans)]int64) {
	if d.Started.IsZero() {
		return
	}
	if !d.Finished.IsZero() { // the average of the whole batch
		if d.Span = d.Finished.Sub(d.Started); d.Span >= time.Second {
			d.Rate = float64(d.Counts.Sum()-d.Counts[ledger.Aborted]) / d.Span.Seconds()
		}
		return
	}
	running := d.Fleet.Now.Sub(d.Started)
	if d.Resumed.After(d.Started) {
		running = d.Fleet.Now.Sub(d.Resumed)
	}
	for i, span := range rateSpans {
		d.Span = max(time.Second, min(span, running))
		d.Rate = float64(ended[i]) / d.Span.Seconds()
		if ended[i] >= rateLinks || span >= running {
			return
		}
	}
}

// LinkStatuses counts the not cancellable links by their status. An active link can still be paid.
type LinkStatuses map[string]int64

// ReadStatuses counts the not cancellable links of a batch by their status.
func ReadStatuses(ctx context.Context, l *ledger.Ledger, b ledger.Batch) (LinkStatuses, error) {
	if b.Counts[ledger.NotCancellable] == 0 {
		return nil, nil
	}
	found, err := l.Snapshot(ctx, b)
	if err != nil {
		return nil, err
	}
	return countStatuses(found, b), nil
}

func countStatuses(found *ledger.Snapshot, b ledger.Batch) LinkStatuses {
	s := LinkStatuses{}
	for index := range int(b.Total) {
		if r := found.Record(index); r.Outcome == ledger.NotCancellable {
			s[found.LinkStatus(r)]++
		}
	}
	return s
}

// Payable is the number of links that may still be paid: their status does not end a link.
func (s LinkStatuses) Payable() (n int64) {
	for status, links := range s {
		if !plexy.Ended(status) {
			n += links
		}
	}
	return n
}

// String lists the statuses, the most frequent first: expired 40, paid 27.
func (s LinkStatuses) String() string {
	var parts []string
	for _, status := range slices.SortedFunc(maps.Keys(s), func(a, b string) int { return cmp.Or(cmp.Compare(s[b], s[a]), cmp.Compare(a, b)) }) {
		parts = append(parts, fmt.Sprintf("%s %s", cmp.Or(status, "unknown"), humanize.Digits(s[status])))
	}
	return strings.Join(parts, ", ")
}
