package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
	"linkcancel/internal/task"
	"linkcancel/producer"
)

type batchRetryCmd struct {
	batchArg
	reasonFlag
	Outcome []string `default:"failed" list:"failed,aborted,rejected,not_cancellable,not_found" help:"Of the links with these outcomes; by default ${default}." placeholder:"A,B"`
	ID      string   `name:"id" help:"Id of the new batch; by default BATCH-retry, followed by a number if necessary."`
	Name    string   `help:"Name of the new batch; by default that of the old one."`
}

// Help is shown by batch retry --help.
func (batchRetryCmd) Help() string {
	return `The new batch has the same source and no canary. Each link gets all its attempts again. Attempts that may have been applied before are taken into account. The old batch does not change. It may still be running, because it never retries a link that failed.

Links that are in an earlier retry of the same batch are left out. The same command twice therefore makes no second batch, and prints the first. To retry the links that failed again, retry the retry.

Standard output has the id of the new batch. If there is nothing to retry, it is empty, and this is not an error.

    linkcancel batch retry latest
    linkcancel batch retry march --outcome aborted,failed --yes`
}

func (c batchRetryCmd) Run(ctx context.Context, a *cliApp) error {
	outlive()
	outcomes, err := c.outcomes()
	if err != nil {
		return err
	}
	if c.ID != "" {
		if err := ledger.CheckBatchID(c.ID); err != nil {
			return usagef("--id: %w", err)
		}
	}
	return c.withRedis(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) error {
		return c.retry(ctx, a, rdb, l, b, outcomes)
	})
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
		case o == ledger.Cancelled || o == ledger.AlreadyCancelled:
			return nil, usagef("--outcome %s: these links are cancelled, there is nothing to retry", o)
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}

func (c batchRetryCmd) retry(ctx context.Context, a *cliApp, rdb redis.UniversalClient, l *ledger.Ledger, parent ledger.Batch, outcomes []ledger.Outcome) error {
	switch {
	case parent.State == ledger.Importing:
		return fmt.Errorf("batch %s cannot be retried: it is being imported", parent.ID)
	case parent.State == ledger.AbortedState && parent.Pending() > 0 && slices.Contains(outcomes, ledger.Aborted):
		return hint(fmt.Errorf("batch %s cannot be retried yet: %s are still being marked as aborted", parent.ID, humanize.Plural(parent.Pending(), "link")), "linkcancel batch abort %s finishes it", parent.ID)
	}
	batches, err := l.List(ctx)
	if err != nil {
		return err
	}
	id := c.ID
	if id == "" {
		if id, err = freeRetryID(ctx, l, parent.ID, batches); err != nil {
			return err
		}
	}
	var others []ledger.Batch // earlier retries, the newest first
	for _, b := range batches {
		switch {
		case b.ID == id && b.State != ledger.Importing && b.Parent != parent.ID:
			return hint(usagef("batch %s already exists, and is not a retry of %s", b.ID, parent.ID), "choose another --id")
		case b.Parent == parent.ID && b.ID != id:
			others = append(others, b)
		}
	}
	src, err := producer.OpenRetry(ctx, l, parent, outcomes, others)
	if err != nil {
		return err
	}
	if src.Links() == 0 {
		return c.nothing(a, parent, src, others)
	}
	p, alive, err := fleetPreview(ctx, rdb, l)
	if err != nil {
		return err
	}
	name := cmp.Or(c.Name, parent.Name)
	if a.DryRun {
		stats := producer.Stats{Links: src.Links()}
		if a.JSON {
			return a.dryRunJSON(stats, name, parent.Source, nil)
		}
		p.print(a.stdout, stats)
		fmt.Fprintln(a.stdout, dryRunNote)
		return nil
	}
	existed := true
	batch, err := producer.MakeBatch(ctx, l, src, producer.BatchConfig{
		ID: id, Source: parent.Source, Name: name, Parent: parent.ID, By: c.by(), Restore: src.Restore,
		Confirm: func(stats producer.Stats) error {
			existed = false
			return a.ask(ctx, p, stats, question{})
		},
	})
	switch {
	case errors.Is(err, producer.ErrOtherLinks) && c.ID == "":
		return hint(fmt.Errorf("batch %s was made by another retry at the same time", id), "run the command again")
	case err != nil:
		return err
	}
	return a.printNew(batch, alive, existed)
}

// nothing says why there is nothing to retry.
func (c batchRetryCmd) nothing(a *cliApp, parent ledger.Batch, src *producer.Retry, retries []ledger.Batch) error {
	what := strings.Join(c.Outcome, " or ")
	if src.Found == 0 {
		if a.JSON {
			return printJSON(a.stdout, status.ViewOf(ledger.Batch{State: "nothing", Source: parent.Source, Name: parent.Name, Parent: parent.ID}))
		}
		fmt.Fprintf(a.notes, "Nothing to retry: batch %s has no link with the outcome %s.%s\n", parent.ID, what, otherOutcomes(parent))
		return nil
	}
	var where []string
	var newest ledger.Batch
	for _, b := range retries {
		if src.Elsewhere[b.ID] == 0 {
			continue
		}
		if newest.ID == "" {
			newest = b
		}
		where = append(where, fmt.Sprintf("%s (%s)", b.ID, b.State))
	}
	if a.JSON {
		view := status.ViewOf(newest)
		view.Existed = true
		return printJSON(a.stdout, view)
	}
	fmt.Fprintln(a.says, newest.ID)
	fmt.Fprintf(a.notes, "Nothing new to retry: batch %s has %s with the outcome %s, all in %s. Next: linkcancel batch show %s\n",
		parent.ID, humanize.Plural(src.Found, "link"), what, strings.Join(where, ", "), newest.ID)
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
