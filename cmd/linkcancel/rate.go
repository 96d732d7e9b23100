package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

type rateCmd struct {
	Show    rateShowCmd    `cmd:"" default:"withargs" help:"Show the fleet's limit, its holds and its workers."`
	Set     rateSetCmd     `cmd:"" help:"Set the fleet's limit: N/s, N/m or N/h; auto: the lowest --rate of the workers alive."`
	Hold    rateHoldCmd    `cmd:"" help:"Stop sending in the whole fleet, until released."`
	Release rateReleaseCmd `cmd:"" help:"End any hold."`
}

// rateJSON is how the limit is printed with --json.
type rateJSON struct {
	Ceiling  float64          `json:"ceiling"` // requests a second; 0: no worker has been alive yet
	Rate     float64          `json:"rate"`
	Burst    int              `json:"burst"`
	Override bool             `json:"override"`
	Hold     *holdJSON        `json:"hold"` // null: none
	Workers  []rateWorkerJSON `json:"workers"`
}

type holdJSON struct {
	Reason string     `json:"reason"`
	Until  *time.Time `json:"until"` // null: not known
	Cause  string     `json:"cause"` // what the API answered; "" if that is not known
}

type rateWorkerJSON struct {
	ID       string    `json:"id"`
	Rate     float64   `json:"rate"`
	Hold     *holdJSON `json:"hold"`
	API      string    `json:"api"`     // host; "": an earlier release, which does not tell
	Version  string    `json:"version"` // of linkcancel
	Key      string    `json:"key"`     // fingerprint of its API key
	InFlight int       `json:"in_flight"`
	TookMS   int64     `json:"took_ms"` // mean time of its latest calls
}

func toHoldJSON(h ratelimit.Hold) *holdJSON {
	if h.Reason == ratelimit.ReasonNone {
		return nil
	}
	j := &holdJSON{Reason: string(h.Reason), Cause: h.Cause}
	if !h.Until.IsZero() {
		until := h.Until.UTC()
		j.Until = &until
	}
	return j
}

// rateDo runs one command on the fleet's limit and shows what stands then.
func rateDo(ctx context.Context, a *cliApp, f redisFlags, told string, do func(context.Context, redis.UniversalClient) error) error {
	b, err := f.open(ctx, a)
	if err != nil {
		return err
	}
	defer b.Close()
	if do != nil && !a.DryRun {
		if err := do(ctx, b.Client()); err != nil {
			return err
		}
	}
	s, err := ratelimit.ShowFleet(ctx, b.Client())
	if err != nil {
		return err
	}
	beats, now, err := workerBeats(ctx, ledger.New(b.Client()))
	if err != nil {
		return err
	}
	if a.JSON {
		j := rateJSON{
			Ceiling: float64(s.Ceiling), Rate: float64(s.Rate), Burst: s.Burst, Override: s.Override,
			Hold: toHoldJSON(s.Hold), Workers: []rateWorkerJSON{},
		}
		for _, w := range s.Workers {
			beat := beats[w.ID]
			j.Workers = append(j.Workers, rateWorkerJSON{
				ID: w.ID, Rate: float64(w.Rate), Hold: toHoldJSON(ownHold(w, beat)),
				API: beat.API, Version: beat.Version, Key: beat.Key, InFlight: beat.InFlight, TookMS: beat.TookMillis,
			})
		}
		return printJSON(a.stdout, j)
	}
	if do != nil && a.DryRun {
		fmt.Fprintln(a.stdout, "Dry run: nothing was sent or changed.")
	} else if told != "" {
		fmt.Fprintln(a.stdout, told)
	}
	printRate(a, s, beats)
	if text := keysDiffer(beats, now); text != "" {
		fmt.Fprintln(a.stderr, text)
	}
	return nil
}

// workerBeats reads the workers' heartbeats, by their ids.
func workerBeats(ctx context.Context, l *ledger.Ledger) (beats map[string]ledger.WorkerBeat, now time.Time, err error) {
	alive, now, err := l.Workers(ctx)
	if err != nil {
		return nil, now, err
	}
	beats = make(map[string]ledger.WorkerBeat, len(alive))
	for _, beat := range alive {
		beats[beat.ID] = beat
	}
	return beats, now, nil
}

// ownHold is a worker's own hold, with the cause that it tells.
func ownHold(w ratelimit.FleetWorker, beat ledger.WorkerBeat) ratelimit.Hold {
	hold := w.Hold
	if hold.Reason != ratelimit.ReasonNone {
		hold.Cause = beat.Cause
	}
	return hold
}

// keysMayDiffer is how long workers may have different keys: while one key is
// replaced by another.
const keysMayDiffer = 10 * time.Minute

// keysDiffer warns of workers that have had different keys for too long; "" if
// there are none.
func keysDiffer(beats map[string]ledger.WorkerBeat, now time.Time) string {
	keys := map[string]int{}
	var latest time.Time
	for _, beat := range beats {
		if beat.Key == "" {
			continue
		}
		keys[beat.Key]++
		if since := time.Unix(beat.KeySince, 0); since.After(latest) {
			latest = since
		}
	}
	if len(keys) < 2 || now.Sub(latest) < keysMayDiffer {
		return ""
	}
	return fmt.Sprintf("The workers have used %d different API keys for more than %s: give all of them the same.", len(keys), humanDuration(keysMayDiffer))
}

func printRate(a *cliApp, s ratelimit.FleetStatus, beats map[string]ledger.WorkerBeat) {
	row := func(name, text string) { fmt.Fprintf(a.stdout, "  %-8s %s\n", name, text) }
	switch {
	case len(s.Workers) == 0 && !s.Override:
		row("ceiling", "none: no worker is alive")
	case s.Override:
		row("ceiling", s.Ceiling.String()+"  set by command; rate set auto leaves it to the workers")
	default:
		row("ceiling", s.Ceiling.String()+"  the lowest --rate of the workers alive")
	}
	if len(s.Workers) > 0 {
		row("rate", fmt.Sprintf("%.*f/s", decimals(float64(s.Rate)), float64(s.Rate)))
	}
	hold := "none"
	switch own := ownHolds(s.Workers); {
	case s.Hold.Reason != ratelimit.ReasonNone:
		hold = holdSince(s.Hold)
	case own == len(s.Workers) && own > 0:
		hold = string(s.Workers[0].Hold.Reason) + " in every worker: nothing is sent but a probe now and then"
	case own > 0:
		hold = fmt.Sprintf("none; %d of %d workers hold for themselves", own, len(s.Workers))
	}
	row("hold", hold)
	if s.Hold.Cause != "" {
		row("cause", clean.Line(s.Hold.Cause))
	}
	row("workers", fmt.Sprint(len(s.Workers)))
	flags := map[string]bool{}
	for _, w := range s.Workers {
		beat := beats[w.ID]
		text := w.Rate.String()
		if beat.API != "" {
			text += fmt.Sprintf("  %s  %s  key %s", clean.Line(beat.API), clean.Line(beat.Version), beat.Key)
		}
		if own := ownHold(w, beat); own.Reason != ratelimit.ReasonNone {
			text += "  " + holdText(own)
			if own.Cause != "" {
				text += " (" + clean.Line(own.Cause) + ")"
			}
		} else if slow := slowText(beat.InFlight, beat.Concurrency, time.Duration(beat.TookMillis)*time.Millisecond); slow != "" {
			text += "  " + slow
		}
		fmt.Fprintf(a.stdout, "    %-20s %s\n", clean.Line(w.ID), text)
		flags[w.Rate.String()] = true
	}
	if len(flags) > 1 {
		fmt.Fprintln(a.stderr, "The workers have different --rate flags: the lowest holds.")
	}
}

// ownHolds counts the workers that are under a hold of their own.
func ownHolds(workers []ratelimit.FleetWorker) (n int) {
	for _, w := range workers {
		if w.Hold.Reason != ratelimit.ReasonNone {
			n++
		}
	}
	return n
}

// holdSince says why nothing is sent, since when and until when.
func holdSince(h ratelimit.Hold) string {
	text := string(h.Reason)
	if !h.Since.IsZero() {
		text += " for " + humanDuration(time.Since(h.Since))
	}
	switch left := time.Until(h.Until); {
	case h.Until.IsZero() && h.Reason == ratelimit.ReasonManual:
		text += ", until linkcancel rate release"
	case !h.Until.IsZero() && left > 0:
		text += ", " + humanDuration(left) + " more"
	}
	return text
}

type rateShowCmd struct{ redisFlags }

func (c rateShowCmd) Run(ctx context.Context, a *cliApp) error {
	return rateDo(ctx, a, c.redisFlags, "", nil)
}

type rateSetCmd struct {
	Limit string `arg:"" help:"N/s, N/m, N/h, or auto."`
	redisFlags
}

func (c rateSetCmd) Run(ctx context.Context, a *cliApp) error {
	var limit ratelimit.Rate
	told := "Limit: automatic (the lowest --rate of the running workers)."
	if strings.ToLower(c.Limit) != "auto" {
		var err error
		if limit, err = ratelimit.ParseRate(c.Limit); err != nil {
			return usagef("%w", err)
		}
		told = "The limit is set. No worker exceeds its own --rate."
	}
	return rateDo(ctx, a, c.redisFlags, told, func(ctx context.Context, rdb redis.UniversalClient) error {
		return ratelimit.SetFleetRate(ctx, rdb, limit)
	})
}

type rateHoldCmd struct {
	For time.Duration `help:"Only for so long; until released by default."`
	redisFlags
}

func (c rateHoldCmd) Run(ctx context.Context, a *cliApp) error {
	if c.For < 0 {
		return &exitError{code: exitUsage, err: errors.New("--for is negative: use a time such as 10m")}
	}
	return rateDo(ctx, a, c.redisFlags, "Sending is on hold for all workers.", func(ctx context.Context, rdb redis.UniversalClient) error {
		var until time.Time
		if c.For > 0 {
			until = time.Now().Add(c.For)
		}
		return ratelimit.HoldFleet(ctx, rdb, until)
	})
}

type rateReleaseCmd struct{ redisFlags }

func (c rateReleaseCmd) Run(ctx context.Context, a *cliApp) error {
	return rateDo(ctx, a, c.redisFlags, "Sending has resumed.", ratelimit.ReleaseFleet)
}
