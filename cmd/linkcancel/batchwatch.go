package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

type batchWatchCmd struct{ batchArg }

// Help is shown by batch watch --help.
func (batchWatchCmd) Help() string {
	return `On a terminal a bar is redrawn; into a pipe goes a line every 5 seconds. Both show the rate and the time left, or why links do not move: a hold, a pause, no worker. With --json there is one object a line whenever something has changed, at most one a second, and at once when the state changes; the last line is the end. Its keys are those of batch list --json and "rate", "left_seconds", "hold" and "workers".

It ends with the batch, and stays while the batch is paused or Redis is away. Ctrl-C ends the watching only: the batch goes on.

The exit code is 0; 1 if the batch cannot be watched, or was deleted; 3 if some links are failed, rejected, aborted, or not cancellable but still active or unknown; 130 after Ctrl-C.

    linkcancel batch watch latest && echo all done
    linkcancel batch watch latest --json | jq .pending`
}

func (c batchWatchCmd) Run(ctx context.Context, a *cliApp) error {
	return c.withRedis(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) error {
		w := &watcher{
			id:   b.ID,
			read: func(ctx context.Context) (batchStatus, error) { return readStatus(ctx, rdb, l, b.ID) },
			view: &textView{out: a.stdout},
		}
		if a.JSON {
			w.view = &jsonView{out: a.stdout, notes: a.stderr}
		}
		last, err := w.run(ctx)
		if errors.Is(err, context.Canceled) {
			fmt.Fprintf(a.stderr, "No longer watched: %s. Next: linkcancel batch watch %s\n", goesOn(last, b.ID), b.ID)
			return exit(exitInterrupted)
		}
		if err != nil {
			return err
		}
		t, err := readStatusCounts(ctx, l, last)
		if err != nil {
			return err
		}
		if !a.JSON {
			printSummary(a.stdout, last, t)
			if alike := allAlike(last); alike != "" {
				fmt.Fprintf(a.stderr, "\nEvery link is %s: %s\n", alike, canaryHint)
			}
			fmt.Fprintf(a.stderr, "\nNext: %s\n", nextStep(last))
		}
		if code := linksExit(last, t); code != exitFine {
			return exit(code)
		}
		return nil
	})
}

func goesOn(b ledger.Batch, id string) string {
	if b.State == ledger.Paused {
		return "batch " + id + " stays paused"
	}
	return "batch " + id + " goes on"
}

// batchStatus is a batch and its fleet as they are seen at one time.
type batchStatus struct {
	batch ledger.Batch
	fleet ratelimit.FleetStatus
	beats map[string]ledger.WorkerBeat
}

// timeLeft is how long the pending links take at a rate, in links a second;
// negative if nobody can tell.
func (s batchStatus) timeLeft(rate float64) time.Duration {
	if rate <= 0 || s.batch.Pending() == 0 || !s.batch.Open() || fleetStatus(s.batch, s.fleet, s.beats).instead != "" {
		return -1
	}
	return timeLeft(s.batch, rate)
}

func readStatus(ctx context.Context, rdb redis.UniversalClient, l *ledger.Ledger, id string) (s batchStatus, err error) {
	if s.batch, err = l.Get(ctx, id); err != nil {
		return s, err
	}
	if s.fleet, err = ratelimit.ShowFleet(ctx, rdb); err != nil {
		return s, err
	}
	s.beats, _, err = workerBeats(ctx, l)
	return s, err
}

// watchView shows what a watcher sees.
type watchView interface {
	show(batchStatus)
	say(line string) // something happened
	end()
}

const (
	// readTimeout is how long a watcher waits for Redis before it says so.
	readTimeout = 5 * time.Second
	// awayEvery is how often it asks while Redis is away.
	awayEvery = time.Second
	// fillPatience is how long it waits for the links of an aborted batch to be
	// marked, while nobody does it.
	fillPatience = 10 * time.Second
)

// watcher follows a batch to its end.
type watcher struct {
	id   string
	read func(context.Context) (batchStatus, error)
	view watchView

	last batchStatus
	seen bool      // last is one
	away bool      // Redis did not answer last
	calm time.Time // since when nothing has changed in an aborted batch
}

// run returns the batch as it ended; the error of ctx if that ended first.
func (w *watcher) run(ctx context.Context) (ledger.Batch, error) {
	defer w.view.end()
	for {
		now, err := w.poll(ctx)
		pause := pollEvery
		switch why, away := broker.Away(err); {
		case ctx.Err() != nil:
			return w.last.batch, ctx.Err()
		case errors.Is(err, ledger.ErrNoBatch):
			return w.last.batch, fmt.Errorf("batch %s is gone: it was deleted, or its import was given up", w.id)
		case away:
			if !w.away {
				w.view.say("Redis went away (" + why + "): asking until it is back")
			}
			w.away, pause = true, awayEvery
		case err != nil:
			return w.last.batch, err
		default:
			w.tell(now)
			if w.over(now.batch) {
				return now.batch, nil
			}
		}
		select {
		case <-ctx.Done():
			return w.last.batch, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// poll reads once. It returns when ctx ends, though the reading may not notice.
func (w *watcher) poll(ctx context.Context) (batchStatus, error) {
	type result struct {
		batchStatus
		err error
	}
	read := make(chan result, 1)
	limited, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	go func() {
		s, err := w.read(limited)
		read <- result{s, err}
	}()
	select {
	case r := <-read:
		return r.batchStatus, r.err
	case <-ctx.Done():
		return batchStatus{}, ctx.Err()
	}
}

// tell shows a new sighting, and says what has happened since the last.
func (w *watcher) tell(now batchStatus) {
	if w.away {
		w.away = false
		w.view.say("Redis is back")
	}
	before, b := w.last.batch, now.batch
	switch {
	case w.seen && before.State == b.State && before.Reason == b.Reason:
	case b.State == ledger.Importing:
		w.view.say("Batch " + b.ID + " is being imported")
	case b.State == ledger.Paused:
		w.view.say(fmt.Sprintf("Batch %s is %s, and is still watched. Next: %s", b.ID, pausedText(b), nextStep(b)))
	case before.State == ledger.Paused && b.Open():
		w.view.say("Batch " + b.ID + " goes on")
	case w.seen && b.State == ledger.AbortedState:
		w.view.say("Batch " + b.ID + " is aborted")
	}
	w.view.show(now)
	if !w.seen || before.Pending() != b.Pending() || before.State != b.State {
		w.calm = time.Now()
	}
	w.last, w.seen = now, true
}

// over says whether there is nothing more to watch.
func (w *watcher) over(b ledger.Batch) bool {
	return finished(b) || b.State == ledger.AbortedState && time.Since(w.calm) > fillPatience
}

func pausedText(b ledger.Batch) string {
	if b.Reason == "" {
		return "paused"
	}
	return "paused (" + reasonText(b.Reason) + ")"
}

// fleetStatus is why the links of b do not move, or what bears on their rate.
func fleetStatus(b ledger.Batch, s ratelimit.FleetStatus, beats map[string]ledger.WorkerBeat) status {
	held := ownHolds(s.Workers)
	switch {
	case b.State == ledger.Paused:
		return status{instead: pausedText(b)}
	case s.Hold.Reason != ratelimit.ReasonNone:
		return status{instead: holdText(s.Hold), cause: s.Hold.Cause}
	case len(s.Workers) == 0:
		return status{instead: "no worker is running"}
	case held == len(s.Workers):
		return status{instead: ownHoldsText(s), cause: ownCause(s, beats)}
	case held > 0:
		return status{beside: ownHoldsText(s), cause: ownCause(s, beats)}
	}
	beside := "limit " + limitText(s)
	if slow := fleetSlow(beats); slow != "" {
		beside += "  " + slow
	}
	return status{beside: beside}
}

// ownCause is what the API answered to a worker that is on hold by itself.
func ownCause(s ratelimit.FleetStatus, beats map[string]ledger.WorkerBeat) string {
	for _, w := range s.Workers {
		if cause := beats[w.ID].Cause; w.Hold.Reason != ratelimit.ReasonNone && cause != "" {
			return cause
		}
	}
	return ""
}

// fleetSlow says that all workers wait for slow calls; "" if not.
func fleetSlow(beats map[string]ledger.WorkerBeat) string {
	inFlight, concurrency, took := 0, 0, time.Duration(0)
	for _, beat := range beats {
		inFlight += beat.InFlight
		concurrency += beat.Concurrency
		took = max(took, time.Duration(beat.TookMillis)*time.Millisecond)
	}
	return slowText(inFlight, concurrency, took)
}

// ownHoldsText tells of the holds that only some processes have; "" if none has one.
func ownHoldsText(s ratelimit.FleetStatus) string {
	for _, w := range s.Workers {
		if w.Hold.Reason != ratelimit.ReasonNone {
			return fmt.Sprintf("%d of %s on hold: %s", ownHolds(s.Workers), plural(int64(len(s.Workers)), "worker"), w.Hold.Reason)
		}
	}
	return ""
}

// limitText is the fleet's limit: 50/s, or 43/s of 50/s after a cut.
func limitText(s ratelimit.FleetStatus) string {
	if s.Rate < s.Ceiling*0.995 {
		return fmt.Sprintf("%s of %s", rateText(float64(s.Rate)), s.Ceiling)
	}
	return s.Ceiling.String()
}

// textView is a bar on a terminal, else plain lines.
type textView struct {
	out io.Writer
	bar *progress

	mu   sync.Mutex // the bar asks while it draws
	last batchStatus
}

func (v *textView) status(b ledger.Batch) status {
	v.mu.Lock()
	defer v.mu.Unlock()
	return fleetStatus(b, v.last.fleet, v.last.beats)
}

func (v *textView) show(s batchStatus) {
	v.mu.Lock()
	v.last = s
	v.mu.Unlock()
	if s.batch.State == ledger.Importing {
		return // nobody knows how many links there will be
	}
	if v.bar == nil {
		if finished(s.batch) {
			return // the summary says it all
		}
		v.bar = startProgress(v.out, s.batch, 0, v.status)
	}
	v.bar.update(s.batch)
}

func (v *textView) say(line string) {
	if v.bar != nil {
		v.bar.say(line)
		return
	}
	fmt.Fprintln(v.out, line)
}

func (v *textView) end() {
	if v.bar != nil {
		v.bar.end()
		fmt.Fprintln(v.out)
	}
}

// jsonView prints a line of JSON for what has changed.
type jsonView struct {
	out, notes io.Writer

	pace    pace
	printed batchStatus
	any     bool
	next    time.Time
}

const jsonEvery = time.Second

func (v *jsonView) show(s batchStatus) {
	now := time.Now()
	before, b := v.printed, s.batch
	if before.batch.State != b.State {
		v.pace = pace{} // a pause is not slow
	}
	v.pace.add(now, b.Counts.Sum())
	changed := !v.any || before.batch.State != b.State || before.batch.Reason != b.Reason
	moved := before.batch.Counts != b.Counts || before.fleet.Hold.Reason != s.fleet.Hold.Reason ||
		len(before.fleet.Workers) != len(s.fleet.Workers)
	if !changed && (!moved || now.Before(v.next) && !finished(b)) {
		return
	}
	v.printed, v.any, v.next = s, true, now.Add(jsonEvery)
	rate, known := v.pace.rate()
	if !known {
		rate = -1
	}
	_ = printJSON(v.out, toLiveJSON(s, rate, s.timeLeft(rate))) // who closes the pipe ends the process
}

func (v *jsonView) say(line string) { fmt.Fprintln(v.notes, line) }

func (v *jsonView) end() {}
