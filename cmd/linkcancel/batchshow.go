package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

type batchShowCmd struct {
	batchOrLatest
	pageFlag
}

// Help is shown by batch show --help.
func (batchShowCmd) Help() string {
	return `It shows the counts by outcome, where the links came from, who did what with the batch, the present rate (over the last minute, or longer if there were few links), the time left at that rate, the hold if nothing is sent, the number of attempts, and the latest errors by kind. Use batch watch to follow a batch.

    linkcancel batch show latest
    linkcancel batch show march --json | jq .outcomes.failed`
}

func (c batchShowCmd) Run(ctx context.Context, a *cliApp) error {
	return c.named().withRedis(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) error {
		if b.State == ledger.Importing && !a.JSON {
			fmt.Fprintf(a.stdout, "Batch %s is being imported\n", b.ID)
			return nil
		}
		fleet, err := status.ReadFleet(ctx, rdb, l)
		if err != nil {
			return err
		}
		d, err := status.ReadDetails(ctx, l, status.Batch{Batch: b, Fleet: fleet})
		if err != nil {
			return err
		}
		if a.JSON {
			return printJSON(a.stdout, d.View())
		}
		s := summary{Batch: b, Result: d.Result, skipped: b.Invalid}
		if n := len(d.Verifications); n > 0 {
			s.verification, d.Verifications = &d.Verifications[n-1], d.Verifications[:n-1]
		}
		s.print(a.stdout)
		printOrigin(a.stdout, b, c.batch(b.ID))
		printDetails(a.stdout, d)
		printHistory(a.stdout, d.History)
		if next := s.next(); next != "" {
			fmt.Fprintf(a.stderr, "\nNext: %s\n", next)
		}
		return nil
	})
}

// printDetails writes what follows the counts.
func printDetails(w io.Writer, d status.Details) {
	var rows [][2]string
	row := func(name, format string, args ...any) {
		rows = append(rows, [2]string{name, fmt.Sprintf(format, args...)})
	}
	if d.Open() {
		m := d.Movement()
		switch {
		case m.Stopped != "":
			row("now", "%s", m.Stopped)
		case d.Span > 0:
			row("rate", "%s over the last %s", humanize.Rate(d.Rate), lastText(d.Span))
		}
		if m.Cause != "" {
			row("cause", "%s", clean.Line(m.Cause))
		}
		if slow := d.Fleet.Slow(); slow != "" {
			row("slow", "%s", slow)
		}
		if left := d.TimeLeft(d.Rate); left >= 0 {
			row("left", "%s at that rate", humanize.Duration(left))
		} else if (m.Stopped == "" || m.Waits) && d.Fleet.Rate > 0 {
			row("left", "%s at the fleet's limit", humanize.Duration(d.Wait(time.Duration(d.Ahead/float64(d.Fleet.Rate)*float64(time.Second)))))
		}
		if workers := len(d.Fleet.Workers); workers > 0 {
			row("fleet", "%s, limit %s", humanize.Plural(int64(workers), "worker"), d.Fleet.Limit())
		}
		if own := d.Fleet.OwnHoldsText(); own != "" && m.Stopped == "" {
			row("hold", "%s", own)
		}
	} else if d.Rate > 0 {
		row("rate", "%s on average", humanize.Rate(d.Rate))
	}
	if len(d.Attempts) > 0 {
		row("attempts", "%s", spread(d.Attempts))
	}
	if d.Ambiguous > 0 {
		row("in doubt", "%s, which an attempt without a clear answer may have cancelled", humanize.Plural(d.Ambiguous, "pending link"))
	}
	for _, v := range d.Verifications {
		row("verified", "%s (%s)", verifiedText(v), v.ID)
	}
	printRows(w, rows)
	printErrors(w, d)
}

// verifiedText says what a verification has shown so far.
func verifiedText(v ledger.Batch) string {
	text := status.Conclusion(v)
	if text == "" {
		text = fmt.Sprintf("%s, %s of %s read", v.State, humanize.Digits(status.LinksRead(v)), humanize.Plural(v.Total, "link"))
	}
	return text
}

// printRows prints rows of a name and a text, after an empty line.
func printRows(w io.Writer, rows [][2]string) {
	if len(rows) > 0 {
		fmt.Fprintln(w)
	}
	for _, r := range rows {
		fmt.Fprintf(w, "  %-9s %s\n", r[0], r[1])
	}
}

// printOrigin writes what a batch is, when it began and ended, and where its page is, if that is known.
func printOrigin(w io.Writer, b ledger.Batch, page string) {
	rows := [][2]string{{"name", clean.Line(b.Name)}, {"source", origin(b)}, {"created", second(b.Created)}}
	if !b.Started.IsZero() {
		rows = append(rows, [2]string{"started", second(b.Started)})
	}
	if b.PauseAbove != "" && b.PauseAbove != "off" {
		rows = append(rows, [2]string{"pauses", "above " + b.PauseAbove + " of links that end badly"})
	}
	if b.Priority != "" && b.Priority != ledger.PriorityNormal {
		rows = append(rows, [2]string{"priority", string(b.Priority)})
	}
	if b.Verify != "" && b.Verify != "off" {
		rows = append(rows, [2]string{"verify", b.Verify + " of its links, when it is done"})
	}
	if !b.NotBefore.IsZero() {
		rows = append(rows, [2]string{"begins", "not before " + second(b.NotBefore)})
	}
	if !b.Finished.IsZero() {
		rows = append(rows, [2]string{"ended", second(b.Finished)})
	}
	if page != "" {
		rows = append(rows, [2]string{"page", page})
	}
	printRows(w, rows)
}

// origin says where the links of a batch came from.
func origin(b ledger.Batch) string {
	text := b.Source
	switch {
	case b.Verifies():
		text = "verification of " + b.Parent
	case b.Parent != "":
		text = "retry of " + b.Parent
	case b.File != "":
		text += " of " + clean.Line(b.File)
	}
	if b.By != "" {
		text += ", by " + clean.Line(b.By)
	}
	return text
}

// second is a time to the second.
func second(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// shownEntries is how many entries of a history are shown.
const shownEntries = 20

// printHistory prints the newest entries of a batch's history.
func printHistory(w io.Writer, entries []history.Entry) {
	if len(entries) == 0 {
		return
	}
	fmt.Fprintf(w, "\n  history (UTC)\n")
	if earlier := len(entries) - shownEntries; earlier > 0 {
		fmt.Fprintf(w, "    … and %s\n", pluralOf(int64(earlier), "earlier entry", "earlier entries"))
		entries = entries[earlier:]
	}
	actors := 0
	for _, e := range entries {
		actors = max(actors, utf8.RuneCountInString(whoDid(e)))
	}
	for _, e := range entries {
		actor := whoDid(e)
		pad := strings.Repeat(" ", actors-utf8.RuneCountInString(actor))
		fmt.Fprintf(w, "    %s  %s%s  %s\n", e.Time.Format("2006-01-02 15:04:05"), actor, pad, clean.Line(status.Did(e)))
	}
}

func lastText(span time.Duration) string {
	switch span {
	case time.Minute:
		return "minute"
	case 15 * time.Minute:
		return "15 minutes"
	case time.Hour:
		return "hour"
	}
	return humanize.Duration(span)
}

// spread writes how many links took how many attempts.
func spread(attempts map[int]int64) string {
	var parts []string
	for _, from := range [...]struct{ least, most int }{{1, 1}, {2, 2}, {3, 3}, {4, 6}, {7, 12}, {13, 255}} {
		var links int64
		for n := from.least; n <= from.most; n++ {
			links += attempts[n]
		}
		name := strconv.Itoa(from.least)
		switch {
		case from.most == 255:
			name += " or more"
		case from.most > from.least:
			name += " to " + strconv.Itoa(from.most)
		}
		if links > 0 {
			parts = append(parts, name+": "+humanize.Digits(links))
		}
	}
	return strings.Join(parts, "   ")
}

func printErrors(w io.Writer, d status.Details) {
	if len(d.Errors) == 0 {
		return
	}
	fmt.Fprintf(w, "\n  last errors by kind\n")
	names, counts := 0, 0
	for _, k := range d.Errors {
		names, counts = max(names, len(k.Kind())), max(counts, len(humanize.Digits(k.Links)))
	}
	for _, k := range d.Errors {
		fmt.Fprintf(w, "    %-*s  %*s   %s", names, k.Kind(), counts, humanize.Digits(k.Links), k.Link)
		if !k.Latest.IsZero() {
			fmt.Fprintf(w, ", %s ago", humanize.Duration(max(0, d.Fleet.Now.Sub(k.Latest))))
		}
		if k.Error != "" {
			fmt.Fprintf(w, ": %s", k.Error)
		}
		fmt.Fprintln(w)
	}
}
