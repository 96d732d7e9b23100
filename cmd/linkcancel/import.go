package main

import (
	"fmt"

	"linkcancel/internal/ledger"
	"linkcancel/producer"
)

type importCmd struct {
	Files []string `arg:"" name:"file" help:"CSV files; - for standard input."`
	csvFlags
	redisFlags
}

// defaultRate is what a plan reckons with while no worker tells its own.
const defaultRate = 10

func (c importCmd) Run(a *app) error {
	src, done, err := c.source(a, c.Files)
	if err != nil {
		return err
	}
	if a.DryRun {
		stats, err := countAll(a, src)
		if err := done(err); err != nil {
			return err
		}
		return a.dryRun(stats, defaultRate, c.name(c.Files), producer.SourceImport)
	}
	b, err := c.open(a)
	if err != nil {
		return done(err)
	}
	defer b.Close()
	l := ledger.New(b.Client())
	workers, _, err := l.Workers(a.ctx)
	if err != nil {
		return done(err)
	}
	rate := float64(defaultRate)
	if len(workers) > 0 {
		rate = workers[0].Rate
		for _, w := range workers {
			rate = min(rate, w.Rate)
		}
	}
	batch, err := producer.MakeBatch(a.ctx, l, src, producer.BatchConfig{
		ID: c.ID, Source: producer.SourceImport, Name: c.name(c.Files), Canary: !c.NoCanary,
		Confirm: func(stats producer.Stats) error {
			fmt.Fprintln(a.stderr, plan(stats, rate))
			return a.confirm("Cancel them?", fromStdin(c.Files))
		},
	})
	if err := done(err); err != nil {
		return err
	}
	if a.JSON {
		return printJSON(a.stdout, toJSON(batch))
	}
	fmt.Fprintln(a.stdout, batch.ID)
	next := "linkcancel batch show " + batch.ID
	if len(workers) == 0 {
		next = "no worker is running: start one with linkcancel worker"
	}
	fmt.Fprintf(a.stderr, "%s in batch %s (%s). Next: %s\n", plural(batch.Total, "link"), batch.ID, batch.State, next)
	return nil
}

// dryRun says what would be done.
func (a *app) dryRun(stats producer.Stats, rate float64, name, source string) error {
	if a.JSON {
		return printJSON(a.stdout, toJSON(ledger.Batch{
			State: "dry-run", Source: source, Name: name, Total: stats.Links, Duplicates: stats.Duplicates, Invalid: stats.Invalid,
		}))
	}
	fmt.Fprintf(a.stdout, "%s\nNothing was written (--dry-run).\n", plan(stats, rate))
	return nil
}
