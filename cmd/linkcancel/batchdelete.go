package main

import (
	"context"
	"errors"
	"fmt"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

type batchDeleteCmd struct {
	batchArg
	reasonFlag
}

// Help is shown by batch delete --help.
func (batchDeleteCmd) Help() string {
	return `The batch must be done or aborted. The command asks for confirmation, unless --yes is given. The outcomes of its links are deleted, too: write the report first. Finished batches are deleted after --keep, 30 days by default.

    linkcancel batch report march -o march.csv
    linkcancel batch delete march`
}

func (c batchDeleteCmd) Run(ctx context.Context, a *cliApp) error {
	return c.with(ctx, a, func(l *ledger.Ledger, b ledger.Batch) error {
		if !b.Ended() {
			return unfinished(b)
		}
		if a.DryRun {
			if a.JSON {
				return printJSON(a.stdout, status.ViewOf(b))
			}
			fmt.Fprintf(a.says, "Batch %s would be deleted: it is %s, %s\n%s\n", b.ID, b.State, humanize.Plural(b.Total, "link"), dryRunNote)
			return nil
		}
		if err := a.confirm(ctx, question{text: fmt.Sprintf("Delete batch %s and the outcomes of its %s?", b.ID, humanize.Plural(b.Total, "link"))}); err != nil {
			return err
		}
		switch err := l.Delete(ctx, b, c.by(), a.Keep); {
		case errors.Is(err, ledger.ErrUnfinished):
			return unfinished(b)
		case err != nil && ctx.Err() != nil:
			return &exitError{code: exitInterrupted, err: hint(fmt.Errorf("interrupted: the rest of batch %s is deleted within an hour", b.ID), "linkcancel batch delete %s deletes it now", b.ID)}
		case err != nil:
			return err
		}
		if a.JSON {
			b.State = "deleted"
			return printJSON(a.stdout, status.ViewOf(b))
		}
		fmt.Fprintf(a.says, "Batch %s is deleted\n", b.ID)
		return nil
	})
}

// unfinished says why a batch cannot be deleted, and what would help.
func unfinished(b ledger.Batch) error {
	switch b.State {
	case ledger.Importing:
		return hint(fmt.Errorf("batch %s cannot be deleted: it is being imported", b.ID), "an import that broke off is deleted by the workers after a day")
	case ledger.AbortedState:
		return hint(fmt.Errorf("batch %s cannot be deleted yet: %s are still being marked as aborted", b.ID, humanize.Plural(b.Pending(), "link")), "linkcancel batch abort %s finishes it", b.ID)
	}
	return hint(fmt.Errorf("batch %s cannot be deleted: it is %s, %s pending", b.ID, b.State, humanize.Plural(b.Pending(), "link")), "linkcancel batch abort %s ends it", b.ID)
}
