package report

import (
	"context"
	"iter"

	"linkcancel/internal/ledger"
)

// ResultOf is the result of one link of a batch.
func ResultOf(b ledger.Batch, lr ledger.LinkRecord) Result {
	return Result{
		Link: lr.Link, Outcome: lr.Record.Outcome, HTTPStatus: lr.Record.HTTPStatus, LinkStatus: lr.LinkStatus,
		Attempts: int(lr.Record.Attempts), FinishedAt: lr.Record.Time(b.Created), Error: lr.Error,
	}
}

// Results are the results of all links of a batch, in its order.
func Results(ctx context.Context, l *ledger.Ledger, b ledger.Batch) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		for lr, err := range l.Walk(ctx, b) {
			if !yield(ResultOf(b, lr), err) {
				return
			}
		}
	}
}
