package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

type activityCmd struct {
	Batch  string `help:"Only of this batch, also if it was deleted: its id, a unique prefix, or latest." placeholder:"BATCH"`
	People bool   `help:"Only what people did, without automatic actions."`
	Limit  int    `default:"50" help:"Show at most so many, 0 means all; by default ${default}, into a pipe all." placeholder:"N"`
	redisFlags
}

// Help is shown by activity --help.
func (activityCmd) Help() string {
	return `It lists imports, pauses, resumes, aborts, retries and deletions of batches, changes of the limit and of the API, holds, and what the workers do by themselves, such as pauses by the canary and scheduled sweeps. The newest entry comes first.

A person is named USER@HOST, or by LINKCANCEL_USER. The reason is that of --reason. Entries are kept as long as finished batches (--keep), and at most 10,000 of people and 10,000 automatic ones.

    linkcancel activity --people
    linkcancel activity --batch march
    linkcancel activity --json | jq -r '.activity[] | select(.action == "pause") | .actor'`
}

func (c activityCmd) Run(ctx context.Context, a *cliApp) error {
	if c.Limit < 0 {
		return usagef("--limit %d: use 0 or more", c.Limit)
	}
	return c.openLedger(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger) error {
		entries, err := c.entries(ctx, l)
		if err != nil {
			return err
		}
		if c.People {
			entries = slices.DeleteFunc(entries, func(e history.Entry) bool { return e.Auto })
		}
		limit := c.Limit
		if !isTerminal(a.stdout) && len(given(a.args, "--limit")) == 0 {
			limit = 0
		}
		more := 0
		if limit > 0 && len(entries) > limit {
			more = len(entries) - limit
			entries = entries[:limit]
		}
		switch {
		case a.JSON:
			list := []status.EntryView{}
			for _, e := range entries {
				list = append(list, status.ViewOfEntry(e))
			}
			return printJSON(a.stdout, map[string]any{"activity": list})
		case len(entries) == 0:
			fmt.Fprintln(a.notes, "There is no activity yet. Next: linkcancel import FILE")
		case isTerminal(a.stdout):
			printActivity(a.stdout, entries)
			if more > 0 {
				fmt.Fprintf(a.stdout, "… and %s more: --limit 0 shows all\n", humanize.Digits(int64(more)))
			}
		default:
			printActivityTabs(a.stdout, entries)
		}
		return nil
	})
}

// entries reads what is to be shown, the newest first.
func (c activityCmd) entries(ctx context.Context, l *ledger.Ledger) ([]history.Entry, error) {
	if c.Batch == "" {
		return l.Activity(ctx, 0)
	}
	id := c.Batch
	b, err := l.Resolve(ctx, c.Batch)
	if err == nil {
		id = b.ID
	} else if !errors.Is(err, ledger.ErrNoBatch) || ledger.CheckBatchID(c.Batch) != nil {
		return nil, err
	}
	entries, readErr := l.History(ctx, id)
	switch {
	case readErr != nil:
		return nil, readErr
	case err != nil && len(entries) == 0:
		return nil, hint(err, "linkcancel activity shows all")
	}
	slices.Reverse(entries)
	return entries, nil
}

// whoDid names the actor of an entry. A person could have the name of a worker.
func whoDid(e history.Entry) string {
	if e.Auto {
		return clean.Line(e.Actor) + " (automatic)"
	}
	return clean.Line(e.Actor)
}

// printActivity prints entries for a terminal.
func printActivity(w io.Writer, entries []history.Entry) {
	rows := [][3]string{{"WHO", "BATCH", "WHAT"}}
	for _, e := range entries {
		rows = append(rows, [3]string{whoDid(e), e.Batch(), clean.Line(status.Did(e))})
	}
	var widths [2]int
	for _, row := range rows {
		for i := range widths {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for i, row := range rows {
		at := "TIME (UTC)"
		if i > 0 {
			at = entries[i-1].Time.Format("2006-01-02 15:04:05")
		}
		fmt.Fprintf(w, "%-19s", at)
		for k, width := range widths {
			fmt.Fprintf(w, "  %s%s", row[k], strings.Repeat(" ", width-utf8.RuneCountInString(row[k])))
		}
		fmt.Fprintf(w, "  %s\n", row[2])
	}
}

// printActivityTabs prints entries for programs.
func printActivityTabs(w io.Writer, entries []history.Entry) {
	fmt.Fprintln(w, "TIME\tWHO\tAUTOMATIC\tBATCH\tACTION\tDETAIL\tREASON")
	for _, e := range entries {
		v := status.ViewOfEntry(e)
		fields := []string{v.Time.Format("2006-01-02T15:04:05.000Z"), v.Actor, fmt.Sprint(v.Automatic), v.Batch, string(v.Action), v.Detail, v.Reason}
		for i := range fields {
			fields[i] = strings.ReplaceAll(clean.Line(fields[i]), "\t", " ")
		}
		fmt.Fprintln(w, strings.Join(fields, "\t"))
	}
}
