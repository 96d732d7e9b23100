package main

import (
	"context"
	"fmt"
	"time"

	"linkcancel/internal/ledger"
)

type batchPauseCmd struct{ batchArg }

// Help is shown by batch pause --help.
func (batchPauseCmd) Help() string {
	return `All workers stop sending its links within about a second; calls in flight are finished and recorded. A batch that is paused already stays so, and that is no error.`
}

func (c batchPauseCmd) Run(ctx context.Context, a *cliApp) error {
	return c.with(ctx, a, func(l *ledger.Ledger, b ledger.Batch) error {
		if a.DryRun {
			return a.dryCommand(b, "paused", b.Open())
		}
		state, changed, err := l.Pause(ctx, b.ID, "by command")
		return a.commanded(ctx, l, b, "paused", state == ledger.Paused, changed, err)
	})
}

type batchResumeCmd struct{ batchArg }

// Help is shown by batch resume --help.
func (batchResumeCmd) Help() string {
	return `The links go on where they stopped. If the batch had paused itself because 50 links in a row were not_found, or rejected, these are asked again, and it does so no more. A batch that runs already stays so, and that is no error.`
}

func (c batchResumeCmd) Run(ctx context.Context, a *cliApp) error {
	return c.with(ctx, a, func(l *ledger.Ledger, b ledger.Batch) error {
		if a.DryRun {
			return a.dryCommand(b, "resumed", b.Open())
		}
		state, changed, err := l.Resume(ctx, b.ID)
		return a.commanded(ctx, l, b, "resumed", state == ledger.Running || state == ledger.Ready, changed, err)
	})
}

type batchAbortCmd struct{ batchArg }

// Help is shown by batch abort --help.
func (batchAbortCmd) Help() string {
	return `All workers stop sending its links within about a second. What was sent keeps its outcome; every other link gets the outcome aborted, and stays as payable as it was. It asks first; --yes does not. An aborted batch cannot be resumed: to cancel the links that are left, make a new batch of them.

    linkcancel batch abort latest
    linkcancel batch retry latest --outcome aborted`
}

func (c batchAbortCmd) Run(ctx context.Context, a *cliApp) error {
	return c.with(ctx, a, func(l *ledger.Ledger, b ledger.Batch) error {
		if a.DryRun {
			return a.dryCommand(b, "aborted", b.Open() || b.State == ledger.AbortedState)
		}
		if b.State == ledger.Importing { // it may be sealed at any moment, and the user was not asked
			return fmt.Errorf("batch %s cannot be aborted: it is being imported\nhint: stop the import, or wait for its end", b.ID)
		}
		if b.Open() && b.Pending() > 0 {
			text := fmt.Sprintf("Abort batch %s? %s will not be sent.", b.ID, plural(b.Pending(), "pending link"))
			if err := a.confirm(ctx, question{text: text}); err != nil {
				return err
			}
		}
		state, changed, err := l.Abort(ctx, b.ID)
		if err == nil && state == ledger.AbortedState {
			b.State = state
			// The leader would do it too; whoever looks next shall see it done.
			fill, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute)
			defer cancel()
			err = l.FillAborted(fill, b)
		}
		return a.commanded(ctx, l, b, "aborted", state == ledger.AbortedState, changed, err)
	})
}

// commanded tells what a command made of a batch. A batch that was there
// already is fine; one that is in another state is an error.
func (a *cliApp) commanded(ctx context.Context, l *ledger.Ledger, b ledger.Batch, verb string, right, changed bool, err error) error {
	if err != nil {
		return err
	}
	now, err := l.Get(ctx, b.ID)
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
func (a *cliApp) dryCommand(b ledger.Batch, verb string, right bool) error {
	if !right {
		return fmt.Errorf("batch %s cannot be %s: it is %s", b.ID, verb, b.State)
	}
	if a.JSON {
		return printJSON(a.stdout, toJSON(b))
	}
	fmt.Fprintf(a.stdout, "Batch %s would be %s: it is %s, %s pending\nDry run: nothing was sent or changed.\n",
		b.ID, verb, b.State, plural(b.Pending(), "link"))
	return nil
}
