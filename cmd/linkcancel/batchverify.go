package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
)

type batchVerifyCmd struct {
	batchArg
	reasonFlag
	Sample string `default:"all" help:"Read a random sample: a share such as 5%, or a number of links; by default ${default}." placeholder:"5%|N"`
	ID     string `name:"id" help:"Id of the verification; by default BATCH-verify, followed by a number if necessary."`
	waitFlags
}

// Help is shown by batch verify --help.
func (batchVerifyCmd) Help() string {
	return `It makes a batch of the links that the batch reports as not payable: cancelled, already_cancelled, not_found, and not_cancellable with a status such as paid or expired. The workers only read these links, within the fleet's limit and after other work. Each link gets the outcome not_payable, still_payable or unknown, with the status that the API shows. A link counts as still payable if it is seen so twice, 5 seconds or more apart.

A sample says how many of all links are payable at most, with 95% confidence.

The batch must have ended. Standard output has the id of the verification. batch show, batch watch and batch report work on it as on other batches. The exit code of --wait and of batch watch is 3 if a link is still payable, or unknown.

    linkcancel batch verify march --wait
    linkcancel batch verify march --sample 5%
    linkcancel batch retry march --still-payable`
}

func (c batchVerifyCmd) Run(ctx context.Context, a *cliApp) error {
	outlive()
	if err := c.waitFlags.check(); err != nil {
		return err
	}
	sample, err := importer.ParseSample(c.Sample)
	if err != nil || sample.Off() {
		return usagef("--sample %s: use a share such as 5%%, or a number of links", c.Sample)
	}
	if c.ID != "" {
		if err := ledger.CheckBatchID(c.ID); err != nil {
			return usagef("--id: %w", err)
		}
	}
	return c.withRedis(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) error {
		return c.verify(ctx, a, rdb, l, b, sample)
	})
}

func (c batchVerifyCmd) verify(ctx context.Context, a *cliApp, rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch, sample importer.Sample) error {
	plan, err := importer.PlanVerify(ctx, l, b, sample, c.ID)
	switch {
	case errors.Is(err, importer.ErrVerifies):
		return hint(usagef("%w", err), "linkcancel batch verify %s verifies its batch again", b.Parent)
	case errors.Is(err, importer.ErrNotEnded):
		return hint(usagef("%w", err), "linkcancel batch watch %s waits for its end", b.ID)
	case errors.Is(err, importer.ErrNothingToVerify):
		return hint(err, "linkcancel batch report %s has the outcomes", b.ID)
	case err != nil:
		return err
	}
	p, alive, err := fleetPreview(ctx, rdb, l, time.Time{})
	if err != nil {
		return err
	}
	p.reads = true
	stats := importer.Stats{Links: plan.Links()}
	if a.DryRun {
		if a.JSON {
			return a.dryRunJSON(stats, b.Name, ledger.SourceVerify, nil)
		}
		p.print(a.stdout, stats)
		fmt.Fprintln(a.stdout, dryRunNote)
		return nil
	}
	existed := true
	made, err := plan.Make(ctx, "", c.by(), func(importer.Stats) error { existed = false; return nil })
	switch {
	case errors.Is(err, importer.ErrOtherLinks) && c.ID == "":
		return hint(fmt.Errorf("batch %s was made by another command at the same time", plan.ID), "run the command again")
	case err != nil:
		return err
	}
	if !c.Wait {
		return a.printNew(made, alive, existed)
	}
	return c.waitFlags.wait(ctx, a, rdb, l, made, alive, existed, nil, "")
}
