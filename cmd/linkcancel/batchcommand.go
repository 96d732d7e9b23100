package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

type batchPauseCmd struct {
	batchArg
	reasonFlag
}

// Help is shown by batch pause --help.
func (batchPauseCmd) Help() string {
	return `All workers stop sending its links within about a second. Requests in flight are finished and recorded. It is not an error if the batch is paused already.

    linkcancel batch pause latest`
}

func (c batchPauseCmd) Run(ctx context.Context, a *cliApp) error {
	return c.change(ctx, a, change{
		verb: "paused", possible: ledger.Batch.Open, to: []ledger.State{ledger.Paused},
		do: func(l *ledger.Ledger, b ledger.Batch) (ledger.State, bool, error) {
			return l.Pause(ctx, b.ID, c.by())
		},
	})
}

type batchResumeCmd struct {
	batchArg
	PauseAbove string `help:"Pause the batch again above this: a share of its last 500 links, a number of links, or off. By default as before." placeholder:"5%|N|off"`
	reasonFlag
}

// Help is shown by batch resume --help.
func (batchResumeCmd) Help() string {
	return `The batch continues where it stopped. If it was paused because 50 links in a row were not_found, or rejected, these links are sent again, and the batch is not paused for this reason again. If it was paused because too many links ended badly (--pause-above), they are counted anew from here on, and the command asks whether to raise the threshold. It is not an error if the batch is running already.

    linkcancel batch resume latest`
}

func (c batchResumeCmd) Run(ctx context.Context, a *cliApp) error {
	pauseAbove, err := ledger.ParsePauseAbove(c.PauseAbove)
	if err != nil {
		return usagef("--pause-above: %w", err)
	}
	return c.change(ctx, a, change{
		verb: "resumed", possible: ledger.Batch.Open, to: []ledger.State{ledger.Running, ledger.Ready},
		do: func(l *ledger.Ledger, b ledger.Batch) (ledger.State, bool, error) {
			if pauseAbove != "" && b.State != ledger.Paused {
				return "", false, usagef("batch %s is %s: --pause-above can be changed when it is resumed from a pause", b.ID, b.State)
			}
			if pauseAbove == "" && strings.HasPrefix(b.Reason, "threshold:") && !a.Yes && !a.JSON && isTerminal(a.stdin) {
				if pauseAbove, err = a.askThreshold(ctx, b); err != nil {
					return "", false, err
				}
			}
			return l.ResumeWith(ctx, b.ID, pauseAbove, c.by())
		},
	})
}

// askThreshold asks whether to raise the threshold that has paused a batch. "" keeps it.
func (a *cliApp) askThreshold(ctx context.Context, b ledger.Batch) (string, error) {
	text := fmt.Sprintf("It was paused: %s. Pause it again above (Enter: %s, as before): ", status.Reason(b), b.PauseAbove)
	for {
		answer, err := a.askLine(ctx, text)
		if err != nil {
			return "", err
		}
		pauseAbove, err := ledger.ParsePauseAbove(answer)
		if err == nil {
			return pauseAbove, nil
		}
		fmt.Fprintln(a.stderr, err)
	}
}

type batchPriorityCmd struct {
	batchArg
	Priority string `arg:"" enum:"high,normal,low" help:"${enum}."`
	reasonFlag
}

// Help is shown by batch priority --help.
func (batchPriorityCmd) Help() string {
	return `Batches of the same kind (imports, or sweeps) share the limit: high gets 4 turns, normal 2 and low 1. Between imports and sweeps it stays 4 to 1. It takes effect within about three seconds.

    linkcancel batch priority march high`
}

func (c batchPriorityCmd) Run(ctx context.Context, a *cliApp) error {
	return c.change(ctx, a, change{
		verb: "given the priority " + c.Priority, possible: ledger.Batch.Open, to: []ledger.State{ledger.Running, ledger.Ready, ledger.Paused},
		do: func(l *ledger.Ledger, b ledger.Batch) (ledger.State, bool, error) {
			return l.SetPriority(ctx, b.ID, ledger.Priority(c.Priority), c.by())
		},
	})
}

type batchAbortCmd struct {
	batchArg
	reasonFlag
}

// Help is shown by batch abort --help.
func (batchAbortCmd) Help() string {
	return `All workers stop sending its links within about a second. Links that were sent keep their outcome. All others get the outcome aborted, and are as payable as before. The command asks for confirmation, unless --yes is given. An aborted batch cannot be resumed. To cancel the remaining links, make a new batch of them.

    linkcancel batch abort latest
    linkcancel batch retry latest --outcome aborted`
}

func (c batchAbortCmd) Run(ctx context.Context, a *cliApp) error {
	return c.change(ctx, a, change{
		verb: "aborted", to: []ledger.State{ledger.AbortedState},
		possible: func(b ledger.Batch) bool { return b.Open() || b.State == ledger.AbortedState },
		do: func(l *ledger.Ledger, b ledger.Batch) (ledger.State, bool, error) {
			if b.State == ledger.Importing { // it may be sealed at any moment, and the user was not asked
				return "", false, hint(fmt.Errorf("batch %s cannot be aborted: it is being imported", b.ID), "stop the import, or wait for its end")
			}
			if b.Open() && b.Pending() > 0 {
				text := fmt.Sprintf("Abort batch %s? %s will not be sent.", b.ID, humanize.Plural(b.Pending(), "pending link"))
				if err := a.confirm(ctx, question{text: text}); err != nil {
					return "", false, err
				}
			}
			return l.AbortNow(ctx, b, c.by())
		},
	})
}

// change is a change of a batch's state.
type change struct {
	verb     string                  // the batch is paused
	possible func(ledger.Batch) bool // for a dry run
	to       []ledger.State
	do       func(*ledger.Ledger, ledger.Batch) (state ledger.State, changed bool, err error)
}

// change changes a batch's state and prints it. It is an error unless the batch then is in it.
func (c batchArg) change(ctx context.Context, a *cliApp, ch change) error {
	return c.with(ctx, a, func(l *ledger.Ledger, b ledger.Batch) (err error) {
		right, changed := ch.possible(b), false
		if !a.DryRun {
			var state ledger.State
			if state, changed, err = ch.do(l, b); err != nil {
				return err
			}
			right = slices.Contains(ch.to, state)
			if b, err = l.Get(ctx, b.ID); err != nil {
				return err
			}
		}
		pending := humanize.Plural(b.Pending(), "link")
		switch {
		case !right:
			return fmt.Errorf("batch %s cannot be %s: it is %s", b.ID, ch.verb, b.State)
		case a.JSON:
			return printJSON(a.stdout, status.ViewOf(b))
		case a.DryRun:
			fmt.Fprintf(a.says, "Batch %s would be %s: it is %s, %s pending\n%s\n", b.ID, ch.verb, b.State, pending, dryRunNote)
		case !changed:
			fmt.Fprintf(a.says, "Batch %s is %s already: %s pending\n", b.ID, b.State, pending)
		default:
			fmt.Fprintf(a.says, "Batch %s is %s: %s pending\n", b.ID, ch.verb, pending)
		}
		return nil
	})
}
