package main

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/producer"
)

type importCmd struct {
	Files []string `arg:"" name:"file" help:"CSV files; - for standard input."`
	csvFlags
	redisFlags
}

// defaultRate is what a plan reckons with while no worker tells its own.
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
		Confirm: func(stats producer.Stats) error {
			fmt.Fprintln(a.stderr, plan(stats, rate))
			return a.confirm(ctx, askToCancel(stats.Links, fromStdin(c.Files)))
		},
	})
	if err := done(err); err != nil {
		return err
	}
	return a.made(batch, alive)
}

// plannedRate is the rate in requests a second that a plan reckons with, and
// whether a worker is alive.
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

// made tells of a new batch.
func (a *cliApp) made(b ledger.Batch, alive bool) error {
	if a.JSON {
		return printJSON(a.stdout, toJSON(b))
	}
	fmt.Fprintln(a.stdout, b.ID)
	next := "linkcancel batch watch " + b.ID
	if !alive {
		next = "no worker is running: start one with linkcancel worker"
	}
	fmt.Fprintf(a.stderr, "%s in batch %s (%s). Next: %s\n", plural(b.Total, "link"), b.ID, b.State, next)
	return nil
}

// dryRun says what would be done.
func (a *cliApp) dryRun(stats producer.Stats, rate float64, name, source string) error {
	if a.JSON {
		return printJSON(a.stdout, toJSON(ledger.Batch{
			State: "dry-run", Source: source, Name: name, Total: stats.Links, Duplicates: stats.Duplicates, Invalid: stats.Invalid,
		}))
	}
	fmt.Fprintf(a.stdout, "%s\nDry run: nothing was sent or changed.\n", plan(stats, rate))
	return nil
}
