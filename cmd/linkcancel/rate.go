package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
)

type rateCmd struct {
	Show    rateShowCmd    `cmd:"" default:"withargs" help:"Show the fleet's limit, its holds and its workers."`
	Set     rateSetCmd     `cmd:"" help:"Set the fleet's limit: N/s, N/m or N/h. auto means the lowest --rate of the running workers."`
	Hold    rateHoldCmd    `cmd:"" help:"Stop sending in the whole fleet until it is released."`
	Release rateReleaseCmd `cmd:"" help:"End any hold."`
	Window  rateWindowCmd  `cmd:"" help:"Send at some times of the day only."`
}

// rateDo runs one command on the fleet's limit, if there is one, and shows the limit.
func rateDo(ctx context.Context, a *cliApp, flags redisFlags, done string, do func(context.Context, redis.UniversalClient) error) error {
	return flags.openLedger(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger) error {
		if do != nil && a.DryRun {
			done = dryRunNote
		} else if do != nil {
			if err := do(ctx, rdb); err != nil {
				return err
			}
		}
		f, err := status.ReadFleet(ctx, rdb, l)
		if err != nil {
			return err
		}
		if a.JSON {
			return printJSON(a.stdout, f.View())
		}
		if done != "" {
			fmt.Fprintln(a.says, done)
		}
		printRate(a, f)
		if keys := f.DifferentKeys(); keys > 0 {
			fmt.Fprintf(a.stderr, "The workers have used %d different API keys for more than %s: give all of them the same.\n", keys, humanize.Duration(status.KeysMayDiffer))
		}
		return nil
	})
}

func printRate(a *cliApp, f status.Fleet) {
	row := func(name, text string) { fmt.Fprintf(a.says, "  %-8s %s\n", name, text) }
	switch {
	case len(f.Workers) == 0 && !f.Override:
		row("limit", "none: no worker is running")
	case f.Override:
		row("limit", f.Ceiling.String()+"  set by command; linkcancel rate set auto lets the workers decide")
	default:
		row("limit", f.Ceiling.String()+"  the lowest --rate of the running workers")
	}
	if len(f.Workers) > 0 {
		row("now", humanize.PerSecond(float64(f.Rate)))
	}
	if window := windowText(f); window != "" {
		row("window", window)
	}
	hold := "none"
	switch own := f.OwnHolds(); {
	case f.Hold.Reason != ratelimit.ReasonNone:
		hold = holdSince(f.Hold)
	case own == len(f.Workers) && own > 0:
		hold = string(f.Workers[0].Hold.Reason) + " in every worker: nothing is sent but a probe now and then"
	case own > 0:
		hold = fmt.Sprintf("none; %d of %d workers hold for themselves", own, len(f.Workers))
	}
	row("hold", hold)
	if f.Hold.Cause != "" && f.Hold.Reason != ratelimit.ReasonManual && f.Hold.Reason != ratelimit.ReasonWindow {
		row("cause", clean.Line(f.Hold.Cause))
	}
	row("workers", fmt.Sprint(len(f.Workers)))
	flags := map[string]bool{}
	for _, w := range f.Workers {
		beat := f.Heartbeats[w.ID]
		text := w.Rate.String()
		if beat.API != "" {
			text += fmt.Sprintf("  %s  %s  key %s", clean.Line(beat.API), clean.Line(beat.Version), beat.Key)
		}
		if own := f.OwnHold(w); own.Reason != ratelimit.ReasonNone {
			text += "  " + status.Hold(own)
			if own.Cause != "" {
				text += " (" + clean.Line(own.Cause) + ")"
			}
		} else if slow := status.Slow(beat.InFlight, beat.Concurrency, time.Duration(beat.TookMillis)*time.Millisecond); slow != "" {
			text += "  " + slow
		}
		fmt.Fprintf(a.says, "    %-20s %s\n", clean.Line(w.ID), text)
		flags[w.Rate.String()] = true
	}
	if len(flags) > 1 {
		fmt.Fprintln(a.stderr, "The workers have different --rate flags: the lowest holds.")
	}
}

// holdSince says why nothing is sent, since when and until when.
func holdSince(h ratelimit.Hold) string {
	text := string(h.Reason)
	if h.Reason == ratelimit.ReasonManual && h.Cause != "" {
		text += " " + clean.Line(h.Cause) + ","
	}
	if !h.Since.IsZero() && h.Reason != ratelimit.ReasonWindow {
		text += " for " + humanize.Duration(time.Since(h.Since))
	}
	switch left := time.Until(h.Until); {
	case h.Until.IsZero() && h.Reason == ratelimit.ReasonManual:
		text += ", until linkcancel rate release"
	case !h.Until.IsZero() && left > 0:
		text += ", " + humanize.Duration(left) + " more"
	}
	return text
}

type rateShowCmd struct{ redisFlags }

func (c rateShowCmd) Run(ctx context.Context, a *cliApp) error {
	return rateDo(ctx, a, c.redisFlags, "", nil)
}

type rateSetCmd struct {
	Limit string `arg:"" help:"N/s, N/m, N/h, or auto."`
	reasonFlag
	redisFlags
}

func (c rateSetCmd) Run(ctx context.Context, a *cliApp) error {
	var limit ratelimit.Rate
	done := "Limit: automatic (the lowest --rate of the running workers)."
	if strings.ToLower(c.Limit) != "auto" {
		var err error
		if limit, err = ratelimit.ParseRate(c.Limit); err != nil {
			return usagef("%w", err)
		}
		done = "The limit is set. No worker exceeds its own --rate."
	}
	return rateDo(ctx, a, c.redisFlags, done, func(ctx context.Context, rdb redis.UniversalClient) error {
		return ratelimit.SetFleetRate(ctx, rdb, limit, c.by())
	})
}

type rateHoldCmd struct {
	For time.Duration `help:"Hold for this long; by default until released."`
	reasonFlag
	redisFlags
}

func (c rateHoldCmd) Run(ctx context.Context, a *cliApp) error {
	if c.For < 0 {
		return usagef("--for is negative: use a time such as 10m")
	}
	return rateDo(ctx, a, c.redisFlags, "Sending is on hold for all workers.", func(ctx context.Context, rdb redis.UniversalClient) error {
		var until time.Time
		if c.For > 0 {
			until = time.Now().Add(c.For)
		}
		return ratelimit.HoldFleet(ctx, rdb, until, c.by())
	})
}

type rateReleaseCmd struct {
	Once bool `help:"Send although the window is closed, until it opens by itself. If it is open, nothing changes."`
	reasonFlag
	redisFlags
}

func (c rateReleaseCmd) Run(ctx context.Context, a *cliApp) error {
	if c.Once {
		return rateDo(ctx, a, c.redisFlags, "The window is open.", func(ctx context.Context, rdb redis.UniversalClient) error {
			if fleet, err := ratelimit.ShowFleet(ctx, rdb); err != nil || fleet.Window.IsZero() {
				return cmp.Or(err, hint(usagef("there is no window to release"), "linkcancel rate release ends a hold"))
			}
			return ratelimit.ReleaseOnce(ctx, rdb, c.by())
		})
	}
	return rateDo(ctx, a, c.redisFlags, "The holds are released.", func(ctx context.Context, rdb redis.UniversalClient) error {
		return ratelimit.ReleaseFleet(ctx, rdb, c.by())
	})
}

// windowText says when the fleet sends, and until when; "" without a window.
func windowText(f status.Fleet) string {
	v := f.View().Window
	switch {
	case v == nil:
		return ""
	case v.Until == nil:
		return v.Window
	case v.Open:
		return v.Window + ", open until " + second(*v.Until)
	}
	return v.Window + ", closed until " + second(*v.Until) + "; linkcancel rate release --once opens it now"
}

type rateWindowCmd struct {
	Window   string `arg:"" help:"Times of the day, such as 22:00-06:00, with commas between several, or off."`
	Timezone string `default:"UTC" help:"Time zone of the times; by default ${default}." placeholder:"ZONE"`
	reasonFlag
	redisFlags
}

// Help is shown by rate window --help.
func (rateWindowCmd) Help() string {
	return `Outside the window nothing is sent, by no worker and no sweep, as in a hold. Everything that says how long a batch takes knows the window. When clocks are set forward, a time in the skipped hour means its end. When they are set back, it means the first of the two hours. Workers of releases before this one do not know windows.

    linkcancel rate window 22:00-06:00 --timezone Asia/Almaty --reason "the API is quiet at night"
    linkcancel rate release --once
    linkcancel rate window off`
}

func (c rateWindowCmd) Run(ctx context.Context, a *cliApp) error {
	var w ratelimit.Window
	done := "There is no window."
	if c.Window != "off" {
		var err error
		if w, err = ratelimit.ParseWindow(c.Window, c.Timezone); err != nil {
			return usagef("%w", err)
		}
		done = "The window is set."
	}
	return rateDo(ctx, a, c.redisFlags, done, func(ctx context.Context, rdb redis.UniversalClient) error {
		return ratelimit.SetWindow(ctx, rdb, w, c.by())
	})
}
