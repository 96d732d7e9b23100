package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/report"
	"linkcancel/internal/status"
)

// waitFlags let a command that makes a batch wait for its end.
type waitFlags struct {
	Wait    bool          `help:"Wait for the end of the batch; then exit like batch watch."`
	Timeout time.Duration `help:"Stop waiting after this time. The batch continues." placeholder:"TIME"`
	Output  string        `short:"o" help:"With --wait, write the report here, with the columns of the input if it has any; - for standard output." placeholder:"FILE"`
}

func (c waitFlags) check() error {
	switch {
	case !c.Wait && c.Output != "":
		return usagef("-o needs --wait: the report is written when the batch has ended")
	case !c.Wait && c.Timeout != 0:
		return usagef("--timeout needs --wait")
	case c.Timeout < 0:
		return usagef("--timeout %v: use a positive time such as 2h", c.Timeout)
	}
	return nil
}

// wait waits for the end of the batch, and of its verification if it says that it has one. It then
// writes the report. files and column are those of the input.
func (c waitFlags) wait(ctx context.Context, a *cliApp, rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch, alive, existed bool, files []string, column string) error {
	if !alive {
		fmt.Fprintln(a.stderr, "No worker is running: start one with linkcancel worker. Waiting.")
	}
	waitCtx := ctx
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	last, verification, err := watchToEnd(waitCtx, a, rdb, l, b.ID)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return hint(fmt.Errorf("batch %s has not ended within %s: it continues", last.ID, humanize.Duration(c.Timeout)), "linkcancel batch watch %s", last.ID)
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(a.stderr, "No longer waiting: %s. Next: linkcancel batch watch %s\n", goesOn(last, last.ID), last.ID)
		return exit(exitInterrupted)
	case err != nil:
		return err
	}
	if fromStdin(files) {
		files = nil // it was read, so the report has its own columns only
	}
	write := func(w io.Writer) error {
		return writeReport(ctx, w, l, last, files, column, report.Options{})
	}
	if err := a.writeOutput(c.Output, true, write); err != nil {
		return err
	}
	result, err := status.ReadResult(ctx, l, last)
	if err != nil {
		return err
	}
	shown := a.says
	switch {
	case a.JSON:
		view := status.ViewOf(last).With(result)
		view.Report, view.Existed = c.Output, existed
		if verification != nil {
			v := status.ViewOfVerification(*verification)
			view.Verification = &v
		}
		if err := printJSON(a.stdout, view); err != nil {
			return err
		}
		shown = a.notes
	case c.Output == "-":
		shown = a.notes
	}
	return a.finished(shown, summary{Batch: last, Result: result, skipped: last.Invalid, verification: verification}, c.Output)
}

// watchToEnd follows a batch, and then its verification if the batch says that it has one. If ctx
// ends first, the batch is the one that was watched.
func watchToEnd(ctx context.Context, a *cliApp, rdb redis.UniversalClient, l *ledger.Ledger, id string) (b ledger.Batch, verification *ledger.Batch, err error) {
	watch := func(id string) (ledger.Batch, error) {
		w := newWatcher(rdb, l, id, &textView{out: a.notes})
		w.endsOnCanary = true
		last, err := w.run(ctx)
		last.ID = id // if it was never read
		return last, err
	}
	if b, err = watch(id); err != nil || !verifies(b) {
		return b, nil, err
	}
	for {
		made, err := l.VerificationsOf(ctx, b)
		switch {
		case err != nil:
			return b, nil, err
		case len(made) > 0:
			v, err := watch(made[len(made)-1].ID)
			if err != nil {
				return v, nil, err
			}
			return b, &v, nil
		}
		select {
		case <-ctx.Done():
			return b, nil, ctx.Err()
		case <-time.After(awayEvery):
		}
		if b, err = l.Get(ctx, id); err != nil || b.HadNothingToVerify() {
			return b, nil, err
		}
	}
}

// verifies reports whether a batch says that it is verified at its end.
func verifies(b ledger.Batch) bool {
	sample, err := importer.ParseSample(cmp.Or(b.Verify, "off"))
	return err == nil && !sample.Off() && b.State == ledger.Done && !b.HadNothingToVerify()
}
