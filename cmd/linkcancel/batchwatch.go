package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

type batchWatchCmd struct{ batchOrLatest }

// Help is shown by batch watch --help.
func (batchWatchCmd) Help() string {
	return `On a terminal it draws a progress bar. Into a pipe it prints a line every 5 seconds. Both show the rate and the time left, or why nothing is moving: a hold, a pause, or no worker. With --json it prints one object per line when something has changed, at most once per second, and at once when the state changes. The last line has the final state. The keys are those of batch list --json, and "rate", "left_seconds", "hold" and "workers".

It ends with the batch. While the batch is paused or Redis is unreachable, it keeps waiting. Ctrl-C ends the watching only: the batch continues.

The exit code is 0; 1 if the batch cannot be watched, or was deleted; 3 if some links are failed, rejected, aborted, or not cancellable but still active or unknown, or if a verification of the batch found links that are payable or unknown; 130 after Ctrl-C.

    linkcancel batch watch latest && echo all done
    linkcancel batch watch latest --json | jq .pending`
}

func (c batchWatchCmd) Run(ctx context.Context, a *cliApp) error {
	return c.named().withRedis(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) error {
		w := newWatcher(rdb, l, b.ID, &textView{out: a.says})
		if a.JSON {
			w.view = &jsonView{out: a.stdout, notes: a.notes}
		}
		last, err := w.run(ctx)
		if errors.Is(err, context.Canceled) {
			fmt.Fprintf(a.stderr, "No longer watched: %s. Next: linkcancel batch watch %s\n", goesOn(last, b.ID), b.ID)
			return exit(exitInterrupted)
		}
		if err != nil {
			return err
		}
		result, err := status.ReadResult(ctx, l, last)
		if err != nil {
			return err
		}
		shown := summary{Batch: last, Result: result, skipped: last.Invalid}
		if shown.verification, err = latestVerification(ctx, l, last); err != nil {
			return err
		}
		code := shown.exit()
		if !a.JSON {
			out, notes := a.says, a.notes
			if code != exitFine {
				out, notes = a.stdout, a.stderr
			}
			shown.print(out)
			if alike := allAlike(last); alike != "" {
				fmt.Fprintf(notes, "\nEvery link is %s: %s\n", alike, canaryHint)
			}
			fmt.Fprintf(notes, "\nNext: %s\n", shown.next())
		}
		if code != exitFine {
			return exit(code)
		}
		return nil
	})
}

func goesOn(b ledger.Batch, id string) string {
	if b.State == ledger.Paused {
		return "batch " + id + " stays paused"
	}
	return "batch " + id + " continues"
}

// watchView shows what a watcher sees.
type watchView interface {
	show(status.Batch)
	say(line string) // something happened
	end()
}

const (
	// readTimeout is how long a watcher waits for Redis before it says so.
	readTimeout = 5 * time.Second
	// awayEvery is how often it asks while Redis is away.
	awayEvery = time.Second
	// fillPatience is how long it waits without progress for an aborted batch to be filled.
	fillPatience = 10 * time.Second
)

// watcher follows a batch to its end.
type watcher struct {
	// endsOnCanary ends it when the canary or the stop condition has paused the batch, since nobody may
	// be there to resume it.
	endsOnCanary bool

	id   string
	read func(context.Context) (status.Batch, error)
	view watchView

	last status.Batch
	seen bool      // last is one
	away bool      // Redis did not answer last
	calm time.Time // since when nothing has changed in an aborted batch
}

func newWatcher(rdb redis.UniversalClient, l *ledger.Ledger, id string, view watchView) *watcher {
	return &watcher{
		id: id, view: view,
		read: func(ctx context.Context) (status.Batch, error) { return status.Read(ctx, rdb, l, id) },
	}
}

// run returns the batch as it ended; the error of ctx if that ended first.
func (w *watcher) run(ctx context.Context) (ledger.Batch, error) {
	defer w.view.end()
	for {
		now, err := w.poll(ctx)
		pause := pollEvery
		switch why, away := broker.Away(err); {
		case ctx.Err() != nil:
			return w.last.Batch, ctx.Err()
		case errors.Is(err, ledger.ErrNoBatch):
			return w.last.Batch, fmt.Errorf("batch %s is gone: it was deleted, or its import was given up", w.id)
		case away:
			if !w.away {
				w.view.say("Redis went away (" + why + "): asking until it is back")
			}
			w.away, pause = true, awayEvery
		case err != nil:
			return w.last.Batch, err
		default:
			w.update(now)
			if w.over(now.Batch) {
				return now.Batch, nil
			}
		}
		select {
		case <-ctx.Done():
			return w.last.Batch, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// poll reads once. It returns when ctx ends, though the reading may not notice.
func (w *watcher) poll(ctx context.Context) (status.Batch, error) {
	type result struct {
		status.Batch
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
		return r.Batch, r.err
	case <-ctx.Done():
		return status.Batch{}, ctx.Err()
	}
}

// update shows a new status, and says what has happened since the last one.
func (w *watcher) update(now status.Batch) {
	if w.away {
		w.away = false
		w.view.say("Redis is back")
	}
	before, b := w.last.Batch, now.Batch
	switch {
	case w.seen && before.State == b.State && before.Reason == b.Reason:
	case b.State == ledger.Importing:
		w.view.say("Batch " + b.ID + " is being imported")
	case b.State == ledger.Paused:
		w.view.say(fmt.Sprintf("Batch %s is %s, and is still watched. Next: %s", b.ID, status.Paused(b), nextStep(b)))
	case before.State == ledger.Paused && b.Open():
		w.view.say("Batch " + b.ID + " continues")
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
	if w.endsOnCanary && b.State == ledger.Paused && (strings.HasPrefix(b.Reason, "canary:") || strings.HasPrefix(b.Reason, "threshold:")) {
		return true
	}
	return b.Ended() || b.State == ledger.AbortedState && time.Since(w.calm) > fillPatience
}

// textView is a bar on a terminal, else plain lines.
type textView struct {
	out io.Writer
	bar *progress

	mu   sync.Mutex // the bar asks while it draws
	last status.Batch
}

func (v *textView) movement(b ledger.Batch) status.Movement {
	v.mu.Lock()
	defer v.mu.Unlock()
	return status.Batch{Batch: b, Fleet: v.last.Fleet}.Movement()
}

func (v *textView) wait(b ledger.Batch, sending time.Duration) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return status.Batch{Batch: b, Fleet: v.last.Fleet}.Wait(sending)
}

func (v *textView) show(s status.Batch) {
	v.mu.Lock()
	v.last = s
	v.mu.Unlock()
	if s.Batch.State == ledger.Importing {
		return // the number of links is not known yet
	}
	if v.bar == nil {
		if s.Ended() {
			return // the summary says it all
		}
		v.bar = startProgress(v.out, s.Batch, 0, v.movement)
		v.bar.wait = v.wait
	}
	v.bar.update(s.Batch)
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

	pace    status.Pace
	printed status.Batch
	any     bool
	next    time.Time
}

const jsonEvery = time.Second

func (v *jsonView) show(s status.Batch) {
	now := time.Now()
	before, b := v.printed, s.Batch
	if before.State != b.State {
		v.pace = status.Pace{} // a pause is not slow
	}
	if s.Movement().Waits {
		v.pace.Skip(now)
	} else {
		v.pace.Add(now, b.Counts.Sum())
	}
	changed := !v.any || before.State != b.State || before.Reason != b.Reason
	moved := before.Counts != b.Counts || before.Fleet.Hold.Reason != s.Fleet.Hold.Reason ||
		len(before.Fleet.Workers) != len(s.Fleet.Workers)
	if !changed && (!moved || now.Before(v.next) && !b.Ended()) {
		return
	}
	v.printed, v.any, v.next = s, true, now.Add(jsonEvery)
	_ = printJSON(v.out, s.View(v.pace.Rate())) // a closed pipe ends the process
}

func (v *jsonView) say(line string) { fmt.Fprintln(v.notes, line) }

func (v *jsonView) end() {}
