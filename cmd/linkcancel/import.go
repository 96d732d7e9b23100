package main

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
	"linkcancel/producer"
)

type importCmd struct {
	Files []string `arg:"" name:"file" help:"CSV files; - for standard input."`
	csvFlags
	redisFlags
}

// defaultRate is the rate that a plan assumes while no worker is alive.
const defaultRate = 10

func (c importCmd) Run(ctx context.Context, a *cliApp) error {
	outlive()
	src, done, err := c.source(ctx, a, c.Files)
	if err != nil {
		return err
	}
	if a.DryRun {
		stats, err := countAll(ctx, src)
		if err := done(err); err != nil {
			return err
		}
		return a.dryRun(stats, defaultRate, c.name(c.Files), producer.SourceImport)
	}
	b, err := c.open(ctx, a)
	if err != nil {
		return done(err)
	}
	defer b.Close()
	l := ledger.New(b.Client())
	rate, alive, err := plannedRate(ctx, b.Client())
	if err != nil {
		return done(err)
	}
	batch, err := producer.MakeBatch(ctx, l, src, producer.BatchConfig{
		ID: c.ID, Source: producer.SourceImport, Name: c.name(c.Files), Canary: !c.NoCanary,
		Confirm: a.confirmPlan(ctx, rate, question{dataOnStdin: fromStdin(c.Files)}),
	})
	if err := done(err); err != nil {
		return err
	}
	return a.printNew(batch, alive)
}

// plannedRate is the rate in requests per second for a plan, and whether a worker is alive.
func plannedRate(ctx context.Context, rdb redis.UniversalClient) (rate float64, alive bool, err error) {
	s, err := ratelimit.ShowFleet(ctx, rdb)
	if err != nil {
		return 0, false, err
	}
	alive = len(s.Workers) > 0
	if !alive && !s.Override {
		return defaultRate, false, nil
	}
	return float64(s.Ceiling), alive, nil
}

// printNew prints a new batch.
func (a *cliApp) printNew(b ledger.Batch, alive bool) error {
	if a.JSON {
		return printJSON(a.stdout, status.ViewOf(b))
	}
	fmt.Fprintln(a.stdout, b.ID)
	next := "linkcancel batch watch " + b.ID
	if !alive {
		next = "no worker is running: start one with linkcancel worker"
	}
	fmt.Fprintf(a.stderr, "%s in batch %s (%s). Next: %s\n", humanize.Plural(b.Total, "link"), b.ID, b.State, next)
	return nil
}

// dryRun says what would be done.
func (a *cliApp) dryRun(stats producer.Stats, rate float64, name, source string) error {
	if a.JSON {
		return printJSON(a.stdout, status.ViewOf(ledger.Batch{
			State: "dry-run", Source: source, Name: name, Total: stats.Links, Duplicates: stats.Duplicates, Invalid: stats.Invalid,
		}))
	}
	fmt.Fprintf(a.stdout, "%s\n%s\n", plan(stats, rate), dryRunNote)
	return nil
}
