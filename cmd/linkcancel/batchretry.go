package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

type batchRetryCmd struct {
	batchArg
	reasonFlag
	StillPayable bool     `help:"Of the links that a verification of the batch found payable."`
	Outcome      []string `default:"failed" list:"failed,aborted,rejected,not_cancellable,not_found" help:"Of the links with these outcomes; by default ${default}." placeholder:"A,B"`
	ID           string   `name:"id" help:"Id of the new batch; by default BATCH-retry, followed by a number if necessary."`
	Name         string   `help:"Name of the new batch; by default that of the old one."`
}

// Help is shown by batch retry --help.
func (batchRetryCmd) Help() string {
	return `The new batch has the same source and no canary. Each link gets all its attempts again. Attempts that may have been applied before are taken into account. The old batch does not change. It may still be running, because it never retries a link that failed.

Links that are in an earlier retry of the same batch are left out. The same command twice therefore makes no second batch, and prints the first. To retry the links that failed again, retry the retry.

With --still-payable, the links are those that the latest verification of the batch with such links found payable, whatever outcome they have in the batch.

Standard output has the id of the new batch. If there is nothing to retry, it is empty, and this is not an error.

    linkcancel batch retry latest
    linkcancel batch retry march --outcome aborted,failed --yes
    linkcancel batch retry march --still-payable`
}

func (c batchRetryCmd) Run(ctx context.Context, a *cliApp) error {
	outlive()
	outcomes, err := c.outcomes()
	if err != nil {
		return err
	}
	if c.StillPayable {
		if len(given(a.args, "--outcome")) > 0 {
			return usagef("--still-payable and --outcome cannot be combined")
		}
		c.Outcome, outcomes = []string{"still_payable"}, []ledger.Outcome{ledger.StillPayable}
	}
	if c.ID != "" {
		if err := ledger.CheckBatchID(c.ID); err != nil {
			return usagef("--id: %w", err)
		}
	}
	return c.withRedis(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) error {
		plan, err := c.plan(ctx, l, b, outcomes)
		if err != nil {
			return err
		}
		return c.retry(ctx, a, rdb, l, plan)
	})
}

func (c batchRetryCmd) plan(ctx context.Context, l *ledger.Ledger, b ledger.Batch, outcomes []ledger.Outcome) (plan *importer.RetryPlan, err error) {
	switch {
	case c.StillPayable:
		plan, err = importer.PlanFindings(ctx, l, b, c.ID)
	case b.Verifies():
		return nil, hint(usagef("%s is a verification: its links were only read", b.ID), "add --still-payable")
	default:
		plan, err = importer.PlanRetry(ctx, l, b, outcomes, c.ID)
	}
	switch {
	case errors.Is(err, importer.ErrNotVerified):
		return nil, hint(usagef("%w", err), "linkcancel batch verify %s", b.ID)
	case errors.Is(err, importer.ErrNoRetry):
		return nil, hint(usagef("%w", err), "choose another --id")
	case errors.Is(err, importer.ErrNotYet) && b.State == ledger.AbortedState:
		return nil, hint(err, "linkcancel batch abort %s finishes it", b.ID)
	}
	return plan, err
}

// outcomes are those of the links to be retried.
func (c batchRetryCmd) outcomes() ([]ledger.Outcome, error) {
	var outcomes []ledger.Outcome
	for _, name := range c.Outcome {
		o, err := ledger.ParseOutcome(strings.TrimSpace(name))
		switch {
		case err != nil:
			return nil, usagef("--outcome: %w (use failed, aborted, rejected, not_cancellable or not_found)", err)
		case o == ledger.None:
			return nil, hint(usagef("--outcome pending: these links are still to be cancelled in their own batch"), "linkcancel batch show has its progress")
		case o == ledger.StillPayable, o == ledger.NotPayable, o == ledger.Unknown:
			return nil, hint(usagef("--outcome %s is an outcome of verifications", o), "--still-payable retries the links that can be paid")
		case o == ledger.Cancelled || o == ledger.AlreadyCancelled:
			return nil, usagef("--outcome %s: these links are cancelled, there is nothing to retry", o)
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}

func (c batchRetryCmd) retry(ctx context.Context, a *cliApp, rdb redis.UniversalClient, l *ledger.Ledger, plan *importer.RetryPlan) error {
	parent := plan.Parent
	if plan.Links() == 0 {
		return c.nothing(a, plan)
	}
	p, alive, err := fleetPreview(ctx, rdb, l, time.Time{})
	if err != nil {
		return err
	}
	name := cmp.Or(c.Name, parent.Name)
	if a.DryRun {
		stats := importer.Stats{Links: plan.Links()}
		if a.JSON {
			return a.dryRunJSON(stats, name, parent.Source, nil)
		}
		p.print(a.stdout, stats)
		fmt.Fprintln(a.stdout, dryRunNote)
		return nil
	}
	existed := true
	batch, err := plan.Make(ctx, c.Name, c.by(), func(stats importer.Stats) error {
		existed = false
		return a.ask(ctx, p, stats, question{})
	})
	switch {
	case errors.Is(err, importer.ErrOtherLinks) && c.ID == "":
		return hint(fmt.Errorf("batch %s was made by another retry at the same time", plan.ID), "run the command again")
	case err != nil:
		return err
	}
	return a.printNew(batch, alive, existed)
}

// nothing says why there is nothing to retry.
func (c batchRetryCmd) nothing(a *cliApp, plan *importer.RetryPlan) error {
	what, parent := strings.Join(c.Outcome, " or "), plan.Parent
	if plan.Found == 0 {
		if a.JSON {
			return printJSON(a.stdout, status.ViewOf(ledger.Batch{State: "nothing", Source: parent.Source, Name: parent.Name, Parent: parent.ID}))
		}
		fmt.Fprintf(a.notes, "Nothing to retry: batch %s has no link with the outcome %s.%s\n", parent.ID, what, otherOutcomes(parent))
		if !parent.Ended() {
			fmt.Fprintf(a.notes, "It has not ended yet: it is %s. Next: linkcancel batch watch %s\n", parent.State, parent.ID)
		}
		return nil
	}
	newest, _ := plan.Holder()
	if a.JSON {
		view := status.ViewOf(newest)
		view.Existed = true
		return printJSON(a.stdout, view)
	}
	var where []string
	for _, b := range plan.Earlier {
		if plan.Elsewhere[b.ID] > 0 {
			where = append(where, fmt.Sprintf("%s (%s)", b.ID, b.State))
		}
	}
	fmt.Fprintln(a.says, newest.ID)
	fmt.Fprintf(a.notes, "Nothing new to retry: batch %s has %s with the outcome %s, all in %s. Next: linkcancel batch show %s\n",
		parent.ID, humanize.Plural(plan.Found, "link"), what, strings.Join(where, ", "), newest.ID)
	return nil
}

// otherOutcomes names the outcomes of a batch that a retry could take.
func otherOutcomes(b ledger.Batch) string {
	var parts []string
	for _, o := range []ledger.Outcome{ledger.Failed, ledger.Rejected, ledger.Aborted, ledger.NotCancellable, ledger.NotFound} {
		if n := b.Counts[o]; n > 0 {
			parts = append(parts, humanize.Digits(n)+" "+o.String())
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " It has " + strings.Join(parts, ", ") + ": choose with --outcome."
}
