package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
	"linkcancel/web"
)

type batchCmd struct {
	List     batchListCmd     `cmd:"" default:"withargs" help:"List batches, the newest first."`
	Show     batchShowCmd     `cmd:"" help:"Show one batch: its counts, rate, time left, holds and last errors."`
	Watch    batchWatchCmd    `cmd:"" help:"Follow a batch to its end."`
	Report   batchReportCmd   `cmd:"" help:"Write the outcome of each link."`
	Pause    batchPauseCmd    `cmd:"" help:"Stop sending the links of a batch until it is resumed."`
	Resume   batchResumeCmd   `cmd:"" help:"Resume a paused batch; also turns off its canary."`
	Abort    batchAbortCmd    `cmd:"" help:"End a batch. Links that were not sent yet are not sent."`
	Retry    batchRetryCmd    `cmd:"" help:"Make a new batch of the links that failed in another."`
	Verify   batchVerifyCmd   `cmd:"" help:"Read the links of a batch again, and report which can still be paid."`
	Priority batchPriorityCmd `cmd:"" help:"Change the share of an open batch."`
	Delete   batchDeleteCmd   `cmd:"" help:"Delete a finished batch and the outcomes of its links."`
}

// Help is shown by batch --help.
func (batchCmd) Help() string {
	return `A batch is named by its id, by a unique prefix of its id, or by the word "latest". No command of this group needs an API key.

    linkcancel batch list
    linkcancel batch watch latest
    linkcancel batch report latest --outcome failed,rejected`
}

// batchArg names a batch.
type batchArg struct {
	Batch string `arg:"" help:"Id of the batch, a unique prefix of it, or latest."`
	redisFlags
}

// batchOrLatest names a batch for a command that changes nothing.
type batchOrLatest struct {
	Batch string `arg:"" optional:"" default:"latest" help:"Id of the batch, a unique prefix of it, or latest; by default ${default}."`
	redisFlags
}

func (c batchOrLatest) named() batchArg { return batchArg(c) }

// with resolves the batch and calls do with it.
func (c batchArg) with(ctx context.Context, a *cliApp, do func(*ledger.Ledger, ledger.Batch) error) error {
	return c.withRedis(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) error { return do(l, b) })
}

// withRedis is like with, for callers that need Redis too.
func (c batchArg) withRedis(ctx context.Context, a *cliApp, do func(redis.UniversalClient, *ledger.Ledger, ledger.Batch) error) error {
	return c.openLedger(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger) error {
		batch, err := l.Resolve(ctx, c.Batch)
		switch {
		case errors.Is(err, ledger.ErrNoBatch) && c.Batch == "latest":
			return hint(err, "linkcancel import FILE makes one")
		case errors.Is(err, ledger.ErrNoBatch) && wasThere(ctx, l, c.Batch):
			return hint(fmt.Errorf("batch %s is deleted", c.Batch), "linkcancel activity --batch %s shows its history", c.Batch)
		case errors.Is(err, ledger.ErrNoBatch) && isLink(c.Batch):
			return hint(err, "linkcancel link show %s finds the batches of a link", c.Batch)
		case errors.Is(err, ledger.ErrNoBatch):
			return hint(err, "linkcancel batch list shows them all")
		case err != nil:
			return err
		}
		return do(rdb, l, batch)
	})
}

// wasThere reports whether a batch that is gone has a history.
func wasThere(ctx context.Context, l *ledger.Ledger, id string) bool {
	if ledger.CheckBatchID(id) != nil {
		return false
	}
	entries, err := l.History(ctx, id)
	return err == nil && len(entries) > 0
}

// openLedger connects to Redis and calls do. If Redis goes away meanwhile, the error says so.
func (f redisFlags) openLedger(ctx context.Context, a *cliApp, do func(redis.UniversalClient, *ledger.Ledger) error) error {
	b, err := f.open(ctx, a)
	if err != nil {
		return err
	}
	defer b.Close()
	err = do(b.Client(), ledger.New(b.Client()))
	var coded *exitError
	if why, ok := broker.Away(err); ok && !errors.As(err, &coded) && !errors.Is(err, web.ErrListen) {
		return hint(fmt.Errorf("Redis at %s went away: %s", b, why), "run the command again when it is back")
	}
	return err
}

type batchListCmd struct {
	State  []string `help:"Only batches in these states: importing, ready, running, paused, done or aborted." placeholder:"A,B"`
	Source string   `help:"Only batches from import, sweep or verify." placeholder:"SOURCE"`
	Limit  int      `default:"20" help:"Show at most so many, 0 means all; by default ${default}, into a pipe all." placeholder:"N"`
	redisFlags
}

// Help is shown by batch list --help.
func (batchListCmd) Help() string {
	return `On a terminal it shows the newest 20. Into a pipe it writes all, with a tab between columns and plain numbers; with --json one object, {"batches":[…]}.

    linkcancel batch list --state running,paused
    linkcancel batch list | cut -f 1,4
    linkcancel batch list --json | jq -r '.batches[] | select(.pending > 0) | .batch'`
}

// states are the states that a batch can have.
var states = []ledger.State{ledger.Importing, ledger.Ready, ledger.Running, ledger.Paused, ledger.Done, ledger.AbortedState}

func (c batchListCmd) check() error {
	for _, name := range c.State {
		if !slices.Contains(states, ledger.State(name)) {
			return usagef("--state %s: use importing, ready, running, paused, done or aborted", name)
		}
	}
	sources := []string{"", importer.SourceImport, importer.SourceSweep, ledger.SourceVerify}
	switch {
	case !slices.Contains(sources, c.Source):
		return usagef("--source %s: use import, sweep or verify", c.Source)
	case c.Limit < 0:
		return usagef("--limit %d: use 0 or more", c.Limit)
	}
	return nil
}

func (c batchListCmd) wants(b ledger.Batch) bool {
	return (len(c.State) == 0 || slices.Contains(c.State, string(b.State))) && (c.Source == "" || b.Source == c.Source)
}

func (c batchListCmd) Run(ctx context.Context, a *cliApp) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.openLedger(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger) error {
		all, err := l.List(ctx)
		if err != nil {
			return err
		}
		var batches []ledger.Batch
		for _, b := range all {
			if c.wants(b) {
				batches = append(batches, b)
			}
		}
		limit := c.Limit
		if t := terminalOf(a.stdout); t == nil && len(given(a.args, "--limit")) == 0 {
			limit = 0
		}
		shown := batches
		if limit > 0 {
			shown = batches[:min(len(batches), limit)]
		}
		switch {
		case a.JSON:
			list := []status.BatchView{}
			for _, b := range shown {
				list = append(list, status.ViewOf(b))
			}
			return printJSON(a.stdout, map[string]any{"batches": list})
		case len(all) == 0:
			fmt.Fprintln(a.notes, "There are no batches. Next: linkcancel import FILE")
		case isTerminal(a.stdout):
			printTable(a.stdout, shown)
			if more := len(batches) - len(shown); more > 0 {
				fmt.Fprintf(a.stdout, "… and %s more: --limit 0 shows all, --state ready,running,paused the open ones\n", humanize.Digits(int64(more)))
			}
		default:
			printTabs(a.stdout, shown)
		}
		return nil
	})
}

// listed are the columns of a list of batches.
var listed = []string{"BATCH", "NAME", "STATE", "SOURCE", "TOTAL", "PENDING", "CANCELLED", "FAILED", "CREATED (UTC)", "BY"}

// problems counts the links that were rejected or failed, or that a verification found payable.
func problems(b ledger.Batch) int64 {
	return b.Counts[ledger.Rejected] + b.Counts[ledger.Failed] + b.Counts[ledger.StillPayable]
}

// printTable prints batches for a terminal. It shortens names and drops the last columns rather than
// wrap rows.
func printTable(w io.Writer, batches []ledger.Batch) {
	rows := [][]string{listed}
	for _, b := range batches {
		rows = append(rows, []string{
			b.ID, clean.Line(b.Name), string(b.State), b.Source, humanize.Digits(b.Total), humanize.Digits(b.Pending()),
			humanize.Digits(b.Counts[ledger.Cancelled]), humanize.Digits(problems(b)), listTime(b.Created), clean.Line(b.By),
		})
	}
	const nameColumn, failedColumn, leastName = 1, 7, 8
	widths := make([]int, len(listed))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	shown := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	total := func() (n int) {
		for _, i := range shown {
			n += widths[i] + 2
		}
		return n - 2
	}
	t := terminalOf(w)
	columns := 1000
	if t != nil {
		columns = t.columns()
	}
	for _, drop := range []int{9, 8, 3, 6} { // by, created, source, cancelled
		if over := total() - columns; over > 0 {
			widths[nameColumn] = max(leastName, min(widths[nameColumn], widths[nameColumn]-over))
		}
		if total() > columns {
			shown = slices.DeleteFunc(shown, func(i int) bool { return i == drop })
		}
	}
	for n, row := range rows {
		var line strings.Builder
		for k, i := range shown {
			if k > 0 {
				line.WriteString("  ")
			}
			cell := cutTo(row[i], widths[i])
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			switch {
			case i >= 4 && i <= failedColumn:
				cell = pad + cell
			case k+1 < len(shown):
				cell += pad
			}
			line.WriteString(cell)
		}
		color := ""
		if n > 0 && problems(batches[n-1]) > 0 {
			color = yellow
		}
		paintLine(w, t, color, line.String())
	}
}

// cutTo shortens a text to so many characters.
func cutTo(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:most-1]) + "…"
}

// printTabs prints batches for programs.
func printTabs(w io.Writer, batches []ledger.Batch) {
	fmt.Fprintln(w, strings.Join(listed, "\t"))
	for _, b := range batches {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", b.ID, strings.ReplaceAll(clean.Line(b.Name), "\t", " "), b.State, b.Source,
			b.Total, b.Pending(), b.Counts[ledger.Cancelled], problems(b), listTime(b.Created), strings.ReplaceAll(clean.Line(b.By), "\t", " "))
	}
}

// listTime is empty for a batch of a newer release, of which nothing is known.
func listTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02 15:04")
}

// nextStep is what the user may want to do with a batch.
func nextStep(b ledger.Batch) string {
	switch {
	case b.State == ledger.Paused && strings.HasPrefix(b.Reason, "canary:"):
		return canaryHint + " linkcancel batch report " + b.ID + " shows the links; linkcancel batch resume " + b.ID + " continues"
	case b.State == ledger.Paused && strings.HasPrefix(b.Reason, "threshold:"):
		return "linkcancel batch report " + b.ID + " --outcome rejected,failed,not_found,not_cancellable shows the links; linkcancel batch resume " + b.ID + " continues"
	case b.State == ledger.Paused:
		return "linkcancel batch resume " + b.ID
	case b.State == ledger.AbortedState && b.Pending() > 0:
		return "linkcancel batch abort " + b.ID + " marks the links that are left"
	case b.Counts[ledger.StillPayable] > 0 && b.Ended():
		return "linkcancel batch retry " + b.ID + " --still-payable, then linkcancel batch verify " + b.Parent
	case problems(b) > 0 && b.Ended():
		return "linkcancel batch retry " + b.ID + " --outcome failed,rejected, or linkcancel batch report " + b.ID + " -o FILE"
	case b.Ended():
		return "linkcancel batch report " + b.ID + " -o FILE"
	}
	return ""
}
