package status

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
)

// Details is what the records of a batch say about it.
type Details struct {
	Batch
	Result
	Attempts  map[int]int64 // number of links by attempts, from 1
	Ambiguous int64         // pending links that an unanswered attempt may have cancelled
	Errors    []ErrorKind   // the most frequent first, at most 10
	History   []history.Entry
	// Verifications are those of the batch, the oldest first.
	Verifications []ledger.Batch
	Intervals     []Interval    // when links ended
	Rate          float64       // links that ended per second, over Span
	Span          time.Duration // 0: the rate was not measured
	// Ahead is how many requests the pending links of all batches need, if each link takes as
	// many as those that have ended. They share the limit.
	Ahead float64

	snapshot *ledger.Snapshot // of a running batch, for ReadDetailsSince
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

// Kind is what the links with this error have in common, in words.
func (k ErrorKind) Kind() string {
	name := k.Outcome.String()
	if k.Outcome == ledger.None {
		name = "tried again"
	}
	if k.HTTPStatus == 0 {
		return name + ", no answer"
	}
	return fmt.Sprintf("%s, %d", name, k.HTTPStatus)
}

// rateSpans are the times over which the rate is measured: the first in which enough links ended.
var rateSpans = [...]time.Duration{time.Minute, 15 * time.Minute, time.Hour}

const maxErrorKinds = 10

// ReadDetails reads every record of a batch, 8 bytes per link, for this moment.
func ReadDetails(ctx context.Context, l *ledger.Ledger, b Batch) (Details, error) {
	return ReadDetailsSince(ctx, l, b, Details{})
}

// ReadDetailsSince is ReadDetails with the help of earlier details: of a running batch it reads only
// what may have changed.
func ReadDetailsSince(ctx context.Context, l *ledger.Ledger, b Batch, earlier Details) (Details, error) {
	d := Details{Batch: b}
	found, err := l.SnapshotSince(ctx, b.Batch, earlier.Batch.Batch, earlier.snapshot)
	if err != nil {
		return d, err
	}
	if b.State == ledger.Running {
		d.snapshot = found
	}
	d.count(found)
	d.Intervals = intervalsOf(found, b.Batch)
	if d.History, err = l.History(ctx, b.ID); err != nil {
		return d, err
	}
	if d.Verifications, err = l.VerificationsOf(ctx, b.Batch); err != nil {
		return d, err
	}
	open, err := l.Unfinished(ctx)
	if err != nil {
		return d, err
	}
	for _, other := range open {
		if other.Open() {
			d.Ahead += float64(other.Pending()) * d.requestsPerLink()
		}
	}
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

// requestsPerLink is how many requests a link took so far: a DELETE, and a GET where the API refused
// it.
func (d *Details) requestsPerLink() float64 {
	done := d.Counts.Sum() - d.Counts[ledger.Aborted]
	if done == 0 {
		return 1
	}
	return 1 + float64(d.Counts[ledger.AlreadyCancelled]+d.Counts[ledger.NotCancellable])/float64(done)
}

func (d *Details) count(found *ledger.Snapshot) {
	d.Result, d.Attempts = resultOf(found, d.Batch.Batch), map[int]int64{}
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
		if !tried && r.Outcome != ledger.Rejected && r.Outcome != ledger.Failed && r.Outcome != ledger.StillPayable && r.Outcome != ledger.Unknown {
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
		span = min(span, running)
		open := d.Fleet.Window.OpenIn(d.Fleet.Now.Add(-span), d.Fleet.Now)
		d.Span = max(time.Second, open)
		d.Rate = float64(ended[i]) / d.Span.Seconds()
		if ended[i] >= rateLinks || span >= running {
			return
		}
	}
}
