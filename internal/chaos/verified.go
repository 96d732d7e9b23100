package main

import (
	"context"
	"fmt"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/sandbox"
)

// Of the links that a batch has cancelled, so many become payable again or are deleted before it is
// verified.
const reopenedLinks, deletedLinks, verifiedLinks = 7, 3, 60

// verification imports links and verifies the batch, by the workers or by command. Before the command,
// some links become payable again.
func (r *round) verification(ctx context.Context, n int, e event) error {
	began := time.Now()
	links := r.take(verifiedLinks)
	if e.pick(2) == 0 {
		id, err := r.importBatch(ctx, links, "--verify", "all")
		r.happened(e.kind, began, "%s, by the workers", id)
		return err
	}
	id, err := r.importBatch(ctx, links)
	if err != nil {
		return err
	}
	r.after.Go(func() {
		if err := r.reopenAndVerify(ctx, n, e, id); err != nil && ctx.Err() == nil {
			r.fail(fmt.Errorf("%s: %w", e.kind, err))
		}
	})
	r.happened(e.kind, began, "%s, by command", id)
	return nil
}

// reopenAndVerify verifies a batch when it is done, while the API fails.
func (r *round) reopenAndVerify(ctx context.Context, n int, e event, id string) error {
	var b ledger.Batch
	for deadline := time.Now().Add(r.plan.finish); ; {
		var err error
		if b, err = r.ledger.Get(ctx, id); err == nil && b.State == ledger.Done {
			break
		}
		// Others say why a batch is not finished.
		if time.Now().After(deadline) || !sleep(ctx, 100*time.Millisecond) {
			return nil
		}
	}
	var cancelled []string
	for row, err := range r.ledger.Walk(ctx, b) {
		if err != nil {
			return err
		}
		if row.Record.Outcome == ledger.Cancelled {
			cancelled = append(cancelled, row.Link)
		}
	}
	for i, id := range cancelled[:min(len(cancelled), reopenedLinks+deletedLinks)] {
		status := "active"
		if i >= reopenedLinks {
			status = ""
		}
		r.api.change(id, status)
	}
	draw := e.rng()
	r.api.fault(n, sandbox.Faults{Error500: 0.1, HTML502: 0.05, Cut: 0.1, CutBefore: 0.05, Hang: 0.02, Friendly: 0.05, Gets: true})
	defer r.api.fault(n, sandbox.Faults{})
	if _, err := r.command(ctx, r.redis.url(), "batch", "verify", id, "--yes"); err != nil {
		return err
	}
	sleep(ctx, time.Duration(draw.Float64()*float64(4*time.Second)))
	return nil
}

// checkVerified holds what a verification says of a link against what the API has, and saw.
func (t *truth) checkVerified(link string, p place) {
	status, _ := t.r.api.box.Status(link)
	record := p.record.Record
	violate := func(rule, format string, args ...any) {
		t.violate(rule, p.batch.ID, link, record.Time(p.batch.Created), format, args...)
	}
	proved := false
	for _, q := range t.of[link] {
		switch {
		case q.Time.Before(p.batch.Created):
		case q.Method == "DELETE" && !t.thawed(q.Time):
			violate("a verification sends no DELETE", "there was one, answered %d", q.Status)
		case q.Fault == "" && (q.Status == 200 || q.Status == 404):
			proved = true
		}
	}
	switch record.Outcome {
	case ledger.None: // reported with the sums
	case ledger.NotPayable:
		if status == "active" {
			violate("not_payable is never said of a payable link", "the API has it as active")
		}
		if !proved {
			violate("not_payable needs an answer of the API", "there was none")
		}
	case ledger.StillPayable:
		if status != "active" {
			violate("still_payable is said of active links only", "the API has it as %q", status)
		}
	case ledger.Unknown:
		t.documented["verified, and no GET was answered: reads unknown"]++
	default:
		violate("a verification has three outcomes", "it says %s", record.Outcome)
	}
}
