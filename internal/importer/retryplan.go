package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
)

var (
	// ErrNotYet: the batch is being imported, or its links are still being marked as aborted.
	ErrNotYet = errors.New("cannot be retried yet")
	// ErrNoRetry: the batch of the given id exists, and is not a retry of the other one.
	ErrNoRetry = errors.New("already exists, and is not a retry")
)

// RetryPlan is a retry that can be made.
type RetryPlan struct {
	*Retry
	ID      string
	Parent  ledger.Batch
	Earlier []ledger.Batch // earlier retries of the same batch, the newest first
	origin  ledger.Batch   // whose source and terms it gets: the parent, or what it verified
}

// originOf is the batch whose source and terms a retry gets.
func originOf(ctx context.Context, l *ledger.Ledger, b ledger.Batch) (ledger.Batch, error) {
	if !b.Verifies() {
		return b, nil
	}
	verified, err := l.Get(ctx, b.Parent)
	if errors.Is(err, ledger.ErrNoBatch) {
		return ledger.Batch{Source: SourceImport}, nil
	}
	return verified, err
}

// ErrNotVerified: the batch has no verification.
var ErrNotVerified = errors.New("was not verified")

// PlanFindings plans a retry of links that a verification of b found payable: of the newest
// verification with some that are in no retry. b may be a verification itself. The error may be
// ErrNotVerified, or one of PlanRetry.
func PlanFindings(ctx context.Context, l *ledger.Ledger, b ledger.Batch, id string) (plan *RetryPlan, err error) {
	made := []ledger.Batch{b}
	if !b.Verifies() {
		if made, err = l.VerificationsOf(ctx, b); err != nil {
			return nil, err
		}
	}
	for _, v := range slices.Backward(made) {
		if plan != nil && v.Counts[ledger.StillPayable] == 0 {
			continue
		}
		p, err := PlanRetry(ctx, l, v, []ledger.Outcome{ledger.StillPayable}, id)
		if err != nil || p.Links() > 0 {
			return p, err
		}
		if plan == nil || plan.Found == 0 {
			plan = p
		}
	}
	if plan == nil {
		return nil, fmt.Errorf("batch %s %w", b.ID, ErrNotVerified)
	}
	return plan, nil
}

// PlanRetry finds the links of parent with one of the outcomes that no earlier retry has. id is that
// of the new batch; "": the first free one of march-retry, march-retry-2 and so on. The error may be
// ErrNotYet or ErrNoRetry.
func PlanRetry(ctx context.Context, l *ledger.Ledger, parent ledger.Batch, outcomes []ledger.Outcome, id string) (*RetryPlan, error) {
	switch {
	case parent.State == ledger.Importing:
		return nil, fmt.Errorf("batch %s %w: it is being imported", parent.ID, ErrNotYet)
	case parent.State == ledger.AbortedState && parent.Pending() > 0 && slices.Contains(outcomes, ledger.Aborted):
		return nil, fmt.Errorf("batch %s %w: %s are still being marked as aborted", parent.ID, ErrNotYet, humanize.Plural(parent.Pending(), "link"))
	}
	batches, err := l.List(ctx)
	if err != nil {
		return nil, err
	}
	if id == "" {
		if id, err = freeRetryID(ctx, l, parent.ID, batches); err != nil {
			return nil, err
		}
	}
	p := &RetryPlan{ID: id, Parent: parent}
	for _, b := range batches {
		switch {
		case b.ID == id && b.State != ledger.Importing && b.Parent != parent.ID:
			return nil, fmt.Errorf("batch %s %w of %s", b.ID, ErrNoRetry, parent.ID)
		case b.Created.Before(parent.Created): // of a deleted batch that had the id
		case b.Parent == parent.ID && b.ID != id && !b.Verifies():
			p.Earlier = append(p.Earlier, b)
		}
	}
	if p.origin, err = originOf(ctx, l, parent); err != nil {
		return nil, err
	}
	p.Retry, err = OpenRetry(ctx, l, parent, outcomes, p.Earlier)
	return p, err
}

// Make makes the batch. name: "" is that of the parent. confirm: see BatchConfig. It is not an error
// if the batch exists, because another call has made it.
func (p *RetryPlan) Make(ctx context.Context, name string, by history.By, confirm func(Stats) error) (ledger.Batch, error) {
	return MakeBatch(ctx, p.ledger, p.Retry, BatchConfig{
		ID: p.ID, Source: p.origin.Source, Terms: p.terms(), Name: cmp.Or(name, p.Parent.Name), Parent: p.Parent.ID, By: by,
		Restore: p.Restore, Confirm: confirm,
	})
}

// terms are those of the origin, but the links may be sent at once.
func (p *RetryPlan) terms() ledger.Terms {
	t := p.origin.Terms
	t.NotBefore = time.Time{}
	return t
}

// Holder is the newest earlier retry that has links with the outcomes; false if none has.
func (p *RetryPlan) Holder() (ledger.Batch, bool) {
	for _, b := range p.Earlier {
		if p.Elsewhere[b.ID] > 0 {
			return b, true
		}
	}
	return ledger.Batch{}, false
}

var retryOf = regexp.MustCompile(`-retry(-\d+)?$`)

// freeRetryID returns the first free id of march-retry, march-retry-2 and so on, for march and its
// retries. It is not random: of two retries at the same time only one succeeds.
func freeRetryID(ctx context.Context, l *ledger.Ledger, parent string, batches []ledger.Batch) (string, error) {
	taken := map[string]bool{}
	for _, b := range batches {
		taken[b.ID] = b.State != ledger.Importing // or it broke off, and its id is free
	}
	for {
		id := retryID(parent, taken)
		deleted, err := l.Deleted(ctx, id)
		if err != nil || !deleted {
			return id, err
		}
		taken[id] = true
	}
}

func retryID(parent string, taken map[string]bool) string {
	root := retryOf.ReplaceAllString(parent, "")
	for n := 1; ; n++ {
		suffix := "-retry"
		if n > 1 {
			suffix = fmt.Sprintf("-retry-%d", n)
		}
		id := root[:min(len(root), task.MaxBatchID-len(suffix))] + suffix
		if !taken[id] {
			return id
		}
	}
}
