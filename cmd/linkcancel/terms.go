package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/walltime"
)

// termFlags say when a batch stops by itself, and whether it is verified.
type termFlags struct {
	Verify     string `help:"When the batch is done, read its links again and report which can still be paid: all of them, off, or a random sample. The default is the setting of the workers." placeholder:"all|5%|off"`
	PauseAbove string `help:"Pause the batch when more than this share of its last 500 links, or this number of its links, are rejected, failed, not_found, or not cancellable but still payable. The default is the setting of the workers." placeholder:"5%|N|off"`
}

// queueFlags say when the links of a batch for the workers are sent.
type queueFlags struct {
	NotBefore string `help:"Send nothing before this time: 22:00, \"2026-12-01 22:00\" or 2026-12-01T22:00:00+05:00. Without an offset it is of the time zone of this machine." placeholder:"TIME"`
	Priority  string `enum:"high,normal,low" default:"normal" help:"Share among the batches of the same kind: ${enum}, which get 4, 2 and 1 turns; by default ${default}."`
}

func (f termFlags) terms() (ledger.Terms, error) {
	t := ledger.Terms{Verify: f.Verify}
	if _, err := importer.ParseSample(cmp.Or(f.Verify, "off")); err != nil {
		return t, usagef("--verify: %w", err)
	}
	var err error
	if t.PauseAbove, err = ledger.ParsePauseAbove(f.PauseAbove); err != nil {
		return t, usagef("--pause-above: %w", err)
	}
	return t, nil
}

// add adds the terms of the flags.
func (f queueFlags) add(t ledger.Terms) (ledger.Terms, error) {
	if f.Priority != string(ledger.PriorityNormal) {
		t.Priority = ledger.Priority(f.Priority)
	}
	var err error
	if t.NotBefore, err = parseNotBefore(f.NotBefore, time.Now()); err != nil {
		return t, usagef("--not-before: %w", err)
	}
	if t.LongPast(time.Now()) {
		return t, hint(usagef("--not-before %s: that was %s ago", f.NotBefore, humanize.Duration(time.Since(t.NotBefore))), "leave it out to begin at once")
	}
	return t, nil
}

// parseNotBefore reads a time: an instant, a date and time, or the next time of day.
func parseNotBefore(text string, now time.Time) (time.Time, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			return walltime.First(t, now.Location()), nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		t, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		for day := walltime.On(now).Truncate(24 * time.Hour); ; day = day.Add(24 * time.Hour) {
			clock := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second
			if at := walltime.First(day.Add(clock), now.Location()); at.After(now) {
				return at, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time: use 22:00, \"2026-12-01 22:00\" or 2026-12-01T22:00:00+05:00", text)
}
