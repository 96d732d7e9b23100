package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/status"
)

type importCmd struct {
	Files []string `arg:"" name:"file" help:"CSV files; - for standard input."`
	waitFlags
	csvFlags
	termFlags
	queueFlags
	redisFlags
}

// defaultRate is the rate that a plan assumes while no worker is alive.
const defaultRate = 10

func (c importCmd) Run(ctx context.Context, a *cliApp) error {
	outlive()
	if err := c.check(); err != nil {
		return err
	}
	terms, err := c.terms()
	if err == nil {
		terms, err = c.add(terms)
	}
	if err != nil {
		return err
	}
	if err := refuseReports(c.Files, c.csvFlags); err != nil {
		return err
	}
	src, done, err := c.source(ctx, a, c.Files)
	if errors.Is(err, linkcsv.ErrNoRows) {
		return a.nothing(c.name(c.Files), importer.SourceImport)
	}
	if err != nil {
		return err
	}
	if a.DryRun {
		return c.dryRun(ctx, a, src, terms.NotBefore, done)
	}
	b, err := c.open(ctx, a)
	if err != nil {
		return done(err)
	}
	defer b.Close()
	return c.start(ctx, a, b, src, terms, done)
}

// start makes the batch, and waits for its end with --wait.
func (c importCmd) start(ctx context.Context, a *cliApp, b *broker.Broker, src *importer.CSV, terms ledger.Terms, done func(error) error) error {
	l := ledger.New(b.Client())
	existed, alive := true, false
	batch, err := importer.MakeBatch(ctx, l, src, importer.BatchConfig{
		ID: c.ID, Source: importer.SourceImport, Name: c.name(c.Files), File: fileList(c.Files), By: c.by(), Canary: !c.NoCanary, Terms: terms,
		Confirm: func(stats importer.Stats) (err error) {
			existed = false
			var p preview
			if p, alive, err = c.preview(ctx, a, b.Client(), l, src, terms.NotBefore); err != nil {
				return err
			}
			return a.ask(ctx, p, stats, question{dataOnStdin: fromStdin(c.Files)})
		},
	})
	if err := done(err); err != nil {
		return err
	}
	if existed {
		fleet, err := status.ReadFleet(ctx, b.Client(), l)
		if err != nil {
			return err
		}
		alive = len(fleet.Workers) > 0
		if batch.Terms != batch.With(terms) {
			fmt.Fprintf(a.stderr, "Batch %s existed already, and keeps the priority, time and conditions that it was made with.\n", batch.ID)
		}
	}
	if !c.Wait {
		return a.printNew(batch, alive, existed)
	}
	return c.wait(ctx, a, b.Client(), l, batch, alive, existed, c.Files, c.Column)
}

// preview is what the user is shown, with the links that wait in other batches.
func (c importCmd) preview(ctx context.Context, a *cliApp, rdb redis.UniversalClient, l *ledger.Ledger, src *importer.CSV, notBefore time.Time) (p preview, alive bool, err error) {
	if p, alive, err = fleetPreview(ctx, rdb, l, notBefore); err != nil {
		return p, alive, err
	}
	p.files, p.about = c.Files, src.About
	if a.Yes && a.Quiet {
		return p, alive, nil // nobody sees it
	}
	all := false
	p.elsewhere, all, err = importer.Pending(ctx, l, src.Has)
	p.unchecked = !all
	return p, alive, err
}

// dryRun shows what would happen. It asks Redis if it can.
func (c importCmd) dryRun(ctx context.Context, a *cliApp, src *importer.CSV, notBefore time.Time, done func(error) error) error {
	stats, err := countAll(ctx, src)
	if err := done(err); err != nil {
		return err
	}
	if a.JSON {
		return a.dryRunJSON(stats, c.name(c.Files), importer.SourceImport, nil)
	}
	p := preview{files: c.Files, about: src.About, rate: defaultRate}
	b, err := c.open(ctx, a)
	if err == nil {
		defer b.Close()
		p, _, err = c.preview(ctx, a, b.Client(), ledger.New(b.Client()), src, notBefore)
	}
	if err != nil {
		p = preview{files: c.Files, about: src.About, rate: defaultRate}
		fmt.Fprintf(a.stderr, "The API, the limit and pending links are unknown: %v\n", err)
	}
	p.print(a.stdout, stats)
	fmt.Fprintln(a.stdout, dryRunNote)
	return nil
}

// printNew prints a new batch, or one that existed already.
func (a *cliApp) printNew(b ledger.Batch, alive, existed bool) error {
	if a.JSON {
		view := status.ViewOf(b)
		view.Existed = existed
		return printJSON(a.stdout, view)
	}
	fmt.Fprintln(a.says, b.ID)
	what := fmt.Sprintf("%s in batch %s (%s)", humanize.Plural(b.Total, "link"), b.ID, b.State)
	if existed {
		what = fmt.Sprintf("Batch %s with these %s existed already (%s)", b.ID, humanize.Plural(b.Total, "link"), b.State)
	}
	next := "linkcancel batch watch " + b.ID
	switch {
	case b.Ended():
		next = nextStep(b)
	case !alive:
		next = "no worker is running: start one with linkcancel worker"
	}
	fmt.Fprintf(a.notes, "%s. Next: %s\n", what, next)
	return nil
}

// nothing says that the input has no links.
func (a *cliApp) nothing(name, source string) error {
	if a.JSON {
		return printJSON(a.stdout, status.ViewOf(ledger.Batch{State: "empty", Source: source, Name: name}))
	}
	fmt.Fprintln(a.notes, "Nothing to do: the input has a header and no rows.")
	return nil
}

// dryRunView is a dry run for programs.
type dryRunView struct {
	status.BatchView
	Probe *probeView `json:"probe,omitempty"` // the GET that it sent
}

func (a *cliApp) dryRunJSON(stats importer.Stats, name, source string, probe *probeView) error {
	return printJSON(a.stdout, dryRunView{status.ViewOf(ledger.Batch{
		State: "dry-run", Source: source, Name: name, Total: stats.Links, Duplicates: stats.Duplicates, Invalid: stats.Invalid,
	}), probe})
}
