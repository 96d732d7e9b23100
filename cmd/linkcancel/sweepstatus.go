package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"linkcancel/internal/clean"
	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/status"
	"linkcancel/producer/sweep"
)

// excluded returns whether a link is in a file; nil without a file.
func excluded(file string) (func(id string) bool, error) {
	if file == "" {
		return nil, nil
	}
	src, err := importer.OpenCSV(importer.CSVConfig{Paths: []string{file}, AnyID: true})
	if errors.Is(err, linkcsv.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, badExclude(err)
	}
	if _, err := countAll(context.Background(), src); err != nil {
		return nil, badExclude(errors.Join(err, src.Close()))
	}
	return src.Has, src.Close()
}

// badExclude replaces the hint, which names flags of import.
func badExclude(err error) error {
	if input := new(importer.InputError); errors.As(err, &input) {
		input.Hint = "Give --exclude a file with one column of links."
	}
	return fmt.Errorf("--exclude: %w", err)
}

// note stores how a sweep by this command ended, for sweep status.
func (c sweepCmd) note(ctx context.Context, a *cliApp, l *ledger.Ledger, began time.Time, r sweep.Result, err error) {
	if a.DryRun || errors.Is(err, errDeclined) {
		return
	}
	run := ledger.SweepRun{
		Due: began.UTC(), Started: began.UTC(), Ended: time.Now().UTC(), OK: err == nil, Batch: r.Batch.ID,
		Counts: sweep.Counts(r.Plan, actor()),
	}
	if err != nil {
		run.Error, _, _ = strings.Cut(err.Error(), "\n")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	result := sweep.Found(run.Counts, r.Batch.ID)
	switch {
	case errors.As(err, new(*sweep.TooManyError)):
		result = history.Refused
	case err != nil:
		result = ""
	}
	by := c.by()
	by.Reason = ""
	if err := l.NoteCommandSweep(ctx, run, by, result); err != nil {
		a.log.Warn("sweep status will not show this sweep", "error", err)
	}
}

// sweepStatus shows the last and the next sweep.
func (a *cliApp) sweepStatus(ctx context.Context, l *ledger.Ledger) error {
	view, err := status.ReadSweeps(ctx, l)
	if err != nil {
		return err
	}
	now, err := l.Now(ctx)
	if err != nil {
		return err
	}
	if a.JSON {
		return printJSON(a.stdout, view)
	}
	printSweeps(a.stdout, view, now)
	return nil
}

// zoneOf returns the time zone of a schedule, which is its last word, or UTC.
func zoneOf(schedule string) *time.Location {
	words := strings.Fields(schedule)
	if len(words) == 0 {
		return time.UTC
	}
	zone, err := time.LoadLocation(words[len(words)-1])
	if err != nil {
		return time.UTC
	}
	return zone
}

func minuteIn(t time.Time, zone *time.Location) string {
	return t.In(zone).Format("2006-01-02 15:04") + " " + zone.String()
}

func printSweeps(w io.Writer, v status.SweepsView, now time.Time) {
	if v.Schedule == "" && v.Command == nil {
		fmt.Fprintln(w, "There was no sweep yet. Next: linkcancel sweep, or linkcancel worker --sweep-cron")
		return
	}
	zone := zoneOf(v.Schedule)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-10s  %s\n", name, clean.Line(fmt.Sprintf(format, args...)))
	}
	if v.Schedule != "" {
		row("schedule", "%s", v.Schedule)
		if v.Next != nil {
			left := v.Next.Sub(now)
			text := "in " + humanize.Duration(left)
			if left < 0 {
				text = "overdue: is a worker with --sweep-cron running?"
			}
			row("next", "%s (%s)", minuteIn(*v.Next, zone), text)
		}
	}
	for _, r := range []struct {
		name string
		run  *status.SweepRunView
	}{{"running", v.Running}, {"last", v.Last}, {"manual", v.Command}} {
		if r.run == nil {
			continue
		}
		fmt.Fprintln(w)
		t := terminalOf(w)
		color := ""
		if r.run.Ended != nil && !r.run.OK || r.run.Error != "" {
			color = red
		}
		paintLine(w, t, color, fmt.Sprintf("  %-10s  %s", r.name, clean.Line(sweepHead(*r.run, zone))))
		if r.run.Listed > 0 || r.run.OK {
			row("listed", "%s", humanize.Plural(r.run.Listed, "link"))
			row("selected", "%s", humanize.Plural(r.run.Selected, "link"))
			if left := sweepLeftOut(*r.run); left != "" {
				row("left out", "%s", left)
			}
		}
		row("batch", "%s", sweepBatch(*r.run))
	}
}

// sweepHead says when the sweep ran, by whom, and how it ended.
func sweepHead(r status.SweepRunView, zone *time.Location) string {
	var text string
	if r.Due != nil {
		text = minuteIn(*r.Due, zone)
	}
	if r.By != "" {
		text += " by " + r.By
	}
	switch {
	case r.Ended == nil && r.Error != "":
		text += ", will be tried again: " + r.Error
	case r.Ended == nil:
		text += ", running"
	case r.OK:
		text += ", successful"
	default:
		text += ", failed: " + r.Error
	}
	if r.Ended != nil && r.Started != nil {
		text += fmt.Sprintf(" (%s)", humanize.Duration(r.Ended.Sub(*r.Started)))
	}
	return text
}

func sweepLeftOut(r status.SweepRunView) string {
	var parts []string
	for _, name := range slices.SortedFunc(maps.Keys(r.LeftOut), func(x, y string) int {
		return cmp.Or(cmp.Compare(r.LeftOut[y], r.LeftOut[x]), cmp.Compare(x, y))
	}) {
		parts = append(parts, humanize.Digits(r.LeftOut[name])+" "+status.LeftOut(name))
	}
	return strings.Join(parts, ", ")
}

func sweepBatch(r status.SweepRunView) string {
	if r.Batch == nil {
		if r.OK && r.Selected == 0 {
			return "none: nothing was selected"
		}
		return "none"
	}
	var parts []string
	for _, o := range ledger.Outcomes {
		if n := r.Batch.Outcomes[o.String()]; n > 0 {
			parts = append(parts, humanize.Digits(n)+" "+o.String())
		}
	}
	if r.Batch.Pending > 0 {
		parts = append(parts, humanize.Digits(r.Batch.Pending)+" pending")
	}
	return fmt.Sprintf("%s (%s): %s", r.Batch.Batch, r.Batch.State, strings.Join(parts, ", "))
}
