package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/report"
)

type batchCmd struct {
	List   batchListCmd   `cmd:"" help:"List all batches, the newest first."`
	Show   batchShowCmd   `cmd:"" help:"Show one batch."`
	Report batchReportCmd `cmd:"" help:"Write what became of each link."`
	Pause  batchPauseCmd  `cmd:"" help:"Stop sending the links of a batch, until resumed."`
	Resume batchResumeCmd `cmd:"" help:"Go on with a paused batch; switches its canary off."`
	Abort  batchAbortCmd  `cmd:"" help:"End a batch: links that were not sent yet stay as they are."`
}

// batchArg names a batch.
type batchArg struct {
	Batch string `arg:"" help:"Id of the batch, a prefix that no other has, or latest."`
	redisFlags
}

// with resolves the batch and calls do with it.
func (c batchArg) with(a *app, do func(*ledger.Ledger, ledger.Batch) error) error {
	b, err := c.open(a)
	if err != nil {
		return err
	}
	defer b.Close()
	l := ledger.New(b.Client())
	batch, err := l.Resolve(a.ctx, c.Batch)
	switch {
	case errors.Is(err, ledger.ErrNoBatch) && c.Batch == "latest":
		return fmt.Errorf("%w\nhint: linkcancel import FILE makes one", err)
	case errors.Is(err, ledger.ErrNoBatch):
		return fmt.Errorf("%w\nhint: linkcancel batch list shows them all", err)
	case err != nil:
		return err
	}
	return do(l, batch)
}

type batchListCmd struct{ redisFlags }

func (c batchListCmd) Run(a *app) error {
	b, err := c.open(a)
	if err != nil {
		return err
	}
	defer b.Close()
	batches, err := ledger.New(b.Client()).List(a.ctx)
	if err != nil {
		return err
	}
	if a.JSON {
		list := []batchJSON{}
		for _, b := range batches {
			list = append(list, toJSON(b))
		}
		return printJSON(a.stdout, map[string]any{"batches": list})
	}
	if len(batches) == 0 {
		fmt.Fprintln(a.stderr, "There are no batches. Next: linkcancel import FILE")
		return nil
	}
	width := len("BATCH")
	for _, b := range batches {
		width = max(width, len(b.ID))
	}
	fmt.Fprintf(a.stdout, "%-*s  %-9s  %-6s  %12s  %12s  %12s  %-16s  %s\n", width, "BATCH", "STATE", "SOURCE", "TOTAL", "PENDING", "CANCELLED", "CREATED (UTC)", "NAME")
	for _, b := range batches {
		fmt.Fprintf(a.stdout, "%-*s  %-9s  %-6s  %12s  %12s  %12s  %-16s  %s\n", width, b.ID, b.State, b.Source,
			grouped(b.Total), grouped(b.Pending()), grouped(b.Counts[ledger.Cancelled]), b.Created.Format("2006-01-02 15:04"), b.Name)
	}
	return nil
}

type batchShowCmd struct{ batchArg }

func (c batchShowCmd) Run(a *app) error {
	return c.with(a, func(l *ledger.Ledger, b ledger.Batch) error {
		if a.JSON {
			return printJSON(a.stdout, toJSON(b))
		}
		if b.State == ledger.Importing {
			fmt.Fprintf(a.stdout, "Batch %s is being imported\n", b.ID)
			return nil
		}
		t, err := newTally(a.ctx, l, b)
		if err != nil {
			return err
		}
		printSummary(a.stdout, b, t)
		if next := nextStep(b); next != "" {
			fmt.Fprintf(a.stderr, "\nNext: %s\n", next)
		}
		return nil
	})
}

// nextStep is what the user may want to do with a batch.
func nextStep(b ledger.Batch) string {
	switch {
	case b.State == ledger.Paused && strings.HasPrefix(b.Reason, "canary:"):
		return canaryHint + " linkcancel batch report " + b.ID + " shows the links; linkcancel batch resume " + b.ID + " goes on"
	case b.State == ledger.Paused:
		return "linkcancel batch resume " + b.ID
	case b.State == ledger.Done || b.State == ledger.AbortedState:
		return "linkcancel batch report " + b.ID + " -o FILE"
	}
	return ""
}

type batchReportCmd struct {
	batchArg
	Output         string   `short:"o" help:"Write to this file instead of standard output." placeholder:"FILE"`
	Join           string   `help:"Put the columns of this CSV file first, in its order." placeholder:"FILE"`
	Column         string   `help:"Column of the links in the joined file." placeholder:"NAME|N"`
	Outcome        []string `help:"Only these outcomes." placeholder:"A,B"`
	Format         string   `enum:"csv,jsonl" default:"csv" help:"Write ${enum}."`
	NoFormulaGuard bool     `help:"Leave cells as they are that a spreadsheet would run as a formula."`
}

func (c batchReportCmd) Run(a *app) error {
	options := report.Options{Format: c.Format, NoFormulaGuard: c.NoFormulaGuard}
	for _, name := range c.Outcome {
		o, err := ledger.ParseOutcome(strings.TrimSpace(name))
		if err != nil {
			return usagef("--outcome: %w (use %s or pending)", err, outcomeList())
		}
		options.Outcomes = append(options.Outcomes, o)
	}
	if sameFile(c.Output, c.Join) {
		return usagef("-o %s would overwrite the file that is joined\nhint: choose another name", c.Output)
	}
	return c.with(a, func(l *ledger.Ledger, b ledger.Batch) error {
		if b.State == ledger.Importing {
			return fmt.Errorf("batch %s is still being imported", b.ID)
		}
		write := func(w io.Writer) error { return writeReport(a.ctx, w, l, b, nil, "", options) }
		if c.Join != "" {
			write = func(w io.Writer) error { return writeReport(a.ctx, w, l, b, []string{c.Join}, c.Column, options) }
		}
		if c.Output == "" {
			return write(a.stdout)
		}
		if a.DryRun {
			if err := write(io.Discard); err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "Report: %s\nNothing was written (--dry-run).\n", c.Output)
			return nil
		}
		if err := report.WriteFile(c.Output, true, write); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "Report: %s\n", c.Output)
		return nil
	})
}

// sameFile tells whether two paths lead to one file.
func sameFile(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

func outcomeList() string {
	var names []string
	for _, o := range ledger.Outcomes {
		names = append(names, o.String())
	}
	return strings.Join(names, ", ")
}

// results are the links of a batch as a report shows them.
func results(ctx context.Context, l *ledger.Ledger, b ledger.Batch) iter.Seq2[report.Result, error] {
	return func(yield func(report.Result, error) bool) {
		for lr, err := range l.Walk(ctx, b) {
			if !yield(report.Result{
				Link: lr.Link, Outcome: lr.Record.Outcome, HTTPStatus: lr.Record.HTTPStatus, LinkStatus: lr.LinkStatus,
				Attempts: int(lr.Record.Attempts), FinishedAt: lr.Record.Time(b.Created), Error: lr.Error,
			}, err) {
				return
			}
		}
	}
}

// writeReport writes what became of each link, joined to the user's files if
// there are any.
func writeReport(ctx context.Context, w io.Writer, l *ledger.Ledger, b ledger.Batch, files []string, column string, opt report.Options) error {
	if len(files) == 0 {
		return report.Write(w, results(ctx, l, b), opt)
	}
	found, err := l.Snapshot(ctx, b)
	if err != nil {
		return err
	}
	index := report.NewIndex(int(b.Total))
	for link, err := range l.AllLinks(ctx, b) {
		if err != nil {
			return err
		}
		index.Add(link)
	}
	return report.WriteJoined(w, files, column, func(link string) (report.Result, bool) {
		at, ok := index.Find(link)
		if !ok {
			return report.Result{}, false
		}
		r := found.At(at)
		return report.Result{
			Link: link, Outcome: r.Record.Outcome, HTTPStatus: r.Record.HTTPStatus, LinkStatus: r.LinkStatus,
			Attempts: int(r.Record.Attempts), FinishedAt: r.Record.Time(b.Created), Error: r.Error,
		}, true
	}, opt)
}

type batchPauseCmd struct{ batchArg }

func (c batchPauseCmd) Run(a *app) error {
	return c.with(a, func(l *ledger.Ledger, b ledger.Batch) error {
		if a.DryRun {
			return a.dryCommand(b, "paused", b.Open())
		}
		state, changed, err := l.Pause(a.ctx, b.ID, "by command")
		return a.commanded(l, b, "paused", state == ledger.Paused, changed, err)
	})
}

type batchResumeCmd struct{ batchArg }

func (c batchResumeCmd) Run(a *app) error {
	return c.with(a, func(l *ledger.Ledger, b ledger.Batch) error {
		if a.DryRun {
			return a.dryCommand(b, "resumed", b.Open())
		}
		state, changed, err := l.Resume(a.ctx, b.ID)
		return a.commanded(l, b, "resumed", state == ledger.Running || state == ledger.Ready, changed, err)
	})
}

type batchAbortCmd struct{ batchArg }

func (c batchAbortCmd) Run(a *app) error {
	return c.with(a, func(l *ledger.Ledger, b ledger.Batch) error {
		if a.DryRun {
			return a.dryCommand(b, "aborted", b.Open() || b.State == ledger.AbortedState)
		}
		if b.Open() && b.Pending() > 0 {
			question := fmt.Sprintf("Abort batch %s? %s will not be sent.", b.ID, plural(b.Pending(), "pending link"))
			if err := a.confirm(question, false); err != nil {
				return err
			}
		}
		state, changed, err := l.Abort(a.ctx, b.ID)
		if err == nil && state == ledger.AbortedState {
			b.State = state
			// The leader would do it too; whoever looks next shall see it done.
			fill, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), 10*time.Minute)
			defer cancel()
			err = l.FillAborted(fill, b)
		}
		return a.commanded(l, b, "aborted", state == ledger.AbortedState, changed, err)
	})
}

// commanded tells what a command made of a batch. A batch that was there
// already is fine; one that is in another state is an error.
func (a *app) commanded(l *ledger.Ledger, b ledger.Batch, verb string, right, changed bool, err error) error {
	if err != nil {
		return err
	}
	now, err := l.Get(a.ctx, b.ID)
	if err != nil {
		return err
	}
	if !right {
		return fmt.Errorf("batch %s cannot be %s: it is %s", b.ID, verb, now.State)
	}
	if a.JSON {
		return printJSON(a.stdout, toJSON(now))
	}
	if !changed {
		fmt.Fprintf(a.stdout, "Batch %s is %s already: %s pending\n", b.ID, now.State, plural(now.Pending(), "link"))
		return nil
	}
	fmt.Fprintf(a.stdout, "Batch %s is %s: %s pending\n", b.ID, verb, plural(now.Pending(), "link"))
	return nil
}

// dryCommand says what a command would make of a batch.
func (a *app) dryCommand(b ledger.Batch, verb string, right bool) error {
	if !right {
		return fmt.Errorf("batch %s cannot be %s: it is %s", b.ID, verb, b.State)
	}
	if a.JSON {
		return printJSON(a.stdout, toJSON(b))
	}
	fmt.Fprintf(a.stdout, "Batch %s would be %s: it is %s, %s pending\nNothing was written (--dry-run).\n",
		b.ID, verb, b.State, plural(b.Pending(), "link"))
	return nil
}
