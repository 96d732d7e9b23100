package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

type batchCmd struct {
	List   batchListCmd   `cmd:"" help:"List all batches, the newest first."`
	Show   batchShowCmd   `cmd:"" help:"Show one batch: its counts, rate, time left, holds and last errors."`
	Watch  batchWatchCmd  `cmd:"" help:"Follow a batch to its end."`
	Report batchReportCmd `cmd:"" help:"Write the outcome of each link."`
	Pause  batchPauseCmd  `cmd:"" help:"Stop sending the links of a batch until it is resumed."`
	Resume batchResumeCmd `cmd:"" help:"Resume a paused batch; also turns off its canary."`
	Abort  batchAbortCmd  `cmd:"" help:"End a batch. Links that were not sent yet are not sent."`
	Retry  batchRetryCmd  `cmd:"" help:"Make a new batch of the links that failed in another."`
	Delete batchDeleteCmd `cmd:"" help:"Delete a finished batch and the outcomes of its links."`
}

// Help is shown by batch --help.
func (batchCmd) Help() string {
	return `A batch is named by its id, by a unique prefix of its id, or by the word "latest". No command of this group needs an API key.

    linkcancel batch list
    linkcancel batch watch latest
    linkcancel batch report latest --outcome failed,rejected`
}

// batchArg names a batch.
type batchArg struct {
	Batch string `arg:"" help:"Id of the batch, a unique prefix of it, or latest."`
	redisFlags
}

// with resolves the batch and calls do with it.
func (c batchArg) with(ctx context.Context, a *cliApp, do func(*ledger.Ledger, ledger.Batch) error) error {
	return c.withRedis(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) error { return do(l, b) })
}

// withRedis is like with, for callers that need Redis too.
func (c batchArg) withRedis(ctx context.Context, a *cliApp, do func(redis.UniversalClient, *ledger.Ledger, ledger.Batch) error) error {
	return c.openLedger(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger) error {
		batch, err := l.Resolve(ctx, c.Batch)
		switch {
		case errors.Is(err, ledger.ErrNoBatch) && c.Batch == "latest":
			return hint(err, "linkcancel import FILE makes one")
		case errors.Is(err, ledger.ErrNoBatch):
			return hint(err, "linkcancel batch list shows them all")
		case err != nil:
			return err
		}
		return do(rdb, l, batch)
	})
}

// openLedger connects to Redis and calls do. If Redis goes away meanwhile, the error says so.
func (f redisFlags) openLedger(ctx context.Context, a *cliApp, do func(redis.UniversalClient, *ledger.Ledger) error) error {
	b, err := f.open(ctx, a)
	if err != nil {
		return err
	}
	defer b.Close()
	err = do(b.Client(), ledger.New(b.Client()))
	var coded *exitError
	if why, ok := broker.Away(err); ok && !errors.As(err, &coded) {
		return hint(fmt.Errorf("Redis at %s went away: %s", b, why), "run the command again when it is back")
	}
	return err
}

type batchListCmd struct{ redisFlags }

// Help is shown by batch list --help.
func (batchListCmd) Help() string {
	return `Standard output has a row for each batch; with --json it has one object, {"batches":[…]}.

    linkcancel batch list --json | jq -r '.batches[] | select(.pending > 0) | .batch'`
}

func (c batchListCmd) Run(ctx context.Context, a *cliApp) error {
	return c.openLedger(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger) error {
		batches, err := l.List(ctx)
		if err != nil {
			return err
		}
		if a.JSON {
			list := []status.BatchView{}
			for _, b := range batches {
				list = append(list, status.ViewOf(b))
			}
			return printJSON(a.stdout, map[string]any{"batches": list})
		}
		if len(batches) == 0 {
			fmt.Fprintln(a.stderr, "There are no batches. Next: linkcancel import FILE")
			return nil
		}
		printList(a, batches)
		return nil
	})
}

func printList(a *cliApp, batches []ledger.Batch) {
	width := len("BATCH")
	for _, b := range batches {
		width = max(width, len(b.ID))
	}
	fmt.Fprintf(a.stdout, "%-*s  %-9s  %-6s  %12s  %12s  %12s  %-16s  %s\n", width, "BATCH", "STATE", "SOURCE", "TOTAL", "PENDING", "CANCELLED", "CREATED (UTC)", "NAME")
	for _, b := range batches {
		fmt.Fprintf(a.stdout, "%-*s  %-9s  %-6s  %12s  %12s  %12s  %-16s  %s\n", width, b.ID, b.State, b.Source,
			humanize.Digits(b.Total), humanize.Digits(b.Pending()), humanize.Digits(b.Counts[ledger.Cancelled]), listTime(b.Created), clean.Line(b.Name))
	}
}

// listTime is empty for a batch of a newer release, of which nothing is known.
func listTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02 15:04")
}

// nextStep is what the user may want to do with a batch.
func nextStep(b ledger.Batch) string {
	switch {
	case b.State == ledger.Paused && strings.HasPrefix(b.Reason, "canary:"):
		return canaryHint + " linkcancel batch report " + b.ID + " shows the links; linkcancel batch resume " + b.ID + " continues"
	case b.State == ledger.Paused:
		return "linkcancel batch resume " + b.ID
	case b.State == ledger.AbortedState && b.Pending() > 0:
		return "linkcancel batch abort " + b.ID + " marks the links that are left"
	case b.Counts[ledger.Failed] > 0 && b.Ended():
		return "linkcancel batch report " + b.ID + " -o FILE, or linkcancel batch retry " + b.ID
	case b.Ended():
		return "linkcancel batch report " + b.ID + " -o FILE"
	}
	return ""
}
