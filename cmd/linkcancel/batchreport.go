package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/report"
)

type batchReportCmd struct {
	batchOrLatest
	Output         string   `short:"o" help:"Write to this file; - or nothing for standard output." placeholder:"FILE"`
	Join           string   `help:"Put the columns of this CSV file first, in its order." placeholder:"FILE"`
	Column         string   `help:"Column of the links in the joined file." placeholder:"NAME|N"`
	Outcome        []string `list:"cancelled,already_cancelled,not_found,not_cancellable,rejected,failed,aborted,not_payable,still_payable,unknown,pending" help:"Only these outcomes." placeholder:"A,B"`
	Format         string   `enum:"csv,jsonl" default:"csv" help:"Write ${enum}."`
	NoFormulaGuard bool     `help:"Do not protect cells that a spreadsheet would run as a formula."`
}

// Help is shown by batch report --help.
func (batchReportCmd) Help() string {
	return `Each link gets a row: link, outcome, http_status, link_status, attempts, finished_at, error. With --join, the columns of your own file come first, with its rows in their order, including duplicates and skipped rows. If your file has a column with the same name as one of ours, ours is named lc_…. If the batch was verified, three more columns follow: verified, verified_status, verified_at. Links without an outcome are pending. With -o, the file is written completely or not at all, and replaces an existing one.

A cell that a spreadsheet would run as a formula, because it begins with =, +, -, @, a tab or a line end, gets a ' in front, unless it is a plain number or telephone number. --no-formula-guard leaves such cells unchanged. JSON needs no guard.

    linkcancel batch report latest -o report.csv --join stale.csv
    linkcancel batch report latest --outcome failed,rejected --format jsonl`
}

func (c batchReportCmd) Run(ctx context.Context, a *cliApp) error {
	options := report.Options{Format: c.Format, NoFormulaGuard: c.NoFormulaGuard}
	if a.JSON {
		options.Format = "jsonl"
	}
	for _, name := range c.Outcome {
		o, err := ledger.ParseOutcome(strings.TrimSpace(name))
		if err != nil {
			return usagef("--outcome: %w (use %s or pending)", err, outcomeList())
		}
		options.Outcomes = append(options.Outcomes, o)
	}
	if sameFile(c.Output, c.Join) {
		return hint(usagef("-o %s would overwrite the file that is joined", c.Output), "choose another name")
	}
	return c.named().with(ctx, a, func(l *ledger.Ledger, b ledger.Batch) error {
		if b.State == ledger.Importing {
			return fmt.Errorf("batch %s is still being imported", b.ID)
		}
		write := func(w io.Writer) error { return writeReport(ctx, w, l, b, nil, "", options) }
		if c.Join != "" {
			write = func(w io.Writer) error { return writeReport(ctx, w, l, b, []string{c.Join}, c.Column, options) }
		}
		if c.Output == "" {
			return write(a.stdout)
		}
		if a.DryRun {
			if err := write(io.Discard); err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "Report: %s\n%s\n", c.Output, dryRunNote)
			return nil
		}
		if err := a.writeOutput(c.Output, true, write); err != nil {
			return err
		}
		if c.Output != "-" {
			fmt.Fprintf(a.notes, "Report: %s\n", c.Output)
		}
		return nil
	})
}

// writeOutput writes a report to a file; - is standard output, and "" nothing.
func (a *cliApp) writeOutput(path string, overwrite bool, write func(io.Writer) error) error {
	switch path {
	case "":
		return nil
	case "-":
		return write(a.stdout)
	}
	return report.WriteFile(path, overwrite, write)
}

// sameFile says whether two paths are one file.
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
	for _, o := range append(ledger.Outcomes[:], ledger.Verdicts[:3]...) {
		names = append(names, o.String())
	}
	return strings.Join(names, ", ")
}

// untilDone writes until its context ends: a joined file may be far longer than the batch.
type untilDone struct {
	ctx context.Context
	to  io.Writer
}

func (w untilDone) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.to.Write(p)
}

// writeReport writes the outcome of each link, joined to the user's files if there are any.
func writeReport(ctx context.Context, w io.Writer, l *ledger.Ledger, b ledger.Batch, files []string, column string, opt report.Options) error {
	w = untilDone{ctx, w}
	if len(files) == 0 {
		return report.WriteBatch(ctx, w, l, b, opt)
	}
	find, ascii, verified, err := finder(ctx, l, b)
	if err != nil {
		return err
	}
	opt.Mark, opt.Verified = !ascii, verified
	return report.WriteJoined(w, files, column, find, opt)
}

// rewriteReport writes a report again, with the results of the links that the batch has.
func rewriteReport(ctx context.Context, w io.Writer, l *ledger.Ledger, b ledger.Batch, path string) error {
	find, ascii, verified, err := finder(ctx, l, b)
	if err != nil {
		return err
	}
	return report.Rewrite(untilDone{ctx, w}, path, find, report.Options{Mark: !ascii, Verified: verified})
}

// finder returns a function that finds the results of a batch by link, and whether all of their
// texts are ASCII.
func finder(ctx context.Context, l *ledger.Ledger, b ledger.Batch) (find func(link string) (report.Result, bool), ascii, verified bool, err error) {
	found, err := l.Snapshot(ctx, b)
	if err != nil {
		return nil, false, false, err
	}
	verifications, err := report.ReadVerifications(ctx, l, b)
	if err != nil {
		return nil, false, false, err
	}
	index := linkcsv.NewIndex(int(b.Total))
	for link, err := range l.AllLinks(ctx, b) {
		if err != nil {
			return nil, false, false, err
		}
		index.Add(link)
	}
	return func(link string) (report.Result, bool) {
		at, ok := index.Find(link)
		if !ok {
			return report.Result{}, false
		}
		lr := found.At(at)
		lr.Link = link
		result := report.ResultOf(b, lr)
		result.Verified = verifications.Of(at)
		return result, true
	}, found.ASCII(), verifications != nil, nil
}
