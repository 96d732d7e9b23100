package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
	"linkcancel/internal/tracing"
)

// sweepRun is a sweep that this process runs.
type sweepRun struct {
	s     *Sweeper
	p     task.Sweep
	lease *ledger.SweepLease
	began time.Time

	batch  string // the id of its batch
	result Result
}

// finalError is an error that no retry solves.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

func finalf(format string, args ...any) error { return &finalError{fmt.Errorf(format, args...)} }

// interruptedError: the sweep did not fail, but this process must stop running it.
type interruptedError struct{ cause error }

func (e *interruptedError) Error() string { return e.cause.Error() }
func (e *interruptedError) Unwrap() error { return e.cause }

var errSweepStopping = errors.New("the worker is stopping")

// run runs the sweep until it or this process ends, or another worker takes it over.
func (r *sweepRun) run(ctx context.Context) error {
	run := r.lease.Run
	switch {
	case run.Started.Sub(r.p.Due) > sweepLate:
		return finalf("missed: no worker was there within %v", sweepLate)
	case r.lease.Now.Sub(r.p.Due) > sweepOver && run.Error != "":
		return finalf("not finished within %v: %s", sweepOver, run.Error)
	case r.lease.Now.Sub(r.p.Due) > sweepOver:
		return finalf("not finished within %v", sweepOver)
	case run.Crashes >= sweepCrashes:
		return finalf("%d workers ended without a word while they ran it", run.Crashes)
	}
	var selection Selection
	if err := json.Unmarshal(r.p.Selection, &selection); err != nil {
		return finalf("read its selection: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(r.s.runCtx, func() { cancel(errSweepStopping) })()
	group.Go(func() error { return r.heartbeat(ctx) })
	group.Go(func() error {
		err := r.once(ctx, selection)
		if cause := context.Cause(ctx); cause != nil && err != nil {
			err = &interruptedError{cause}
		}
		cancel(nil) // ends the heartbeats
		return err
	})
	return group.Wait()
}

// heartbeat writes heartbeats, and ends the sweep if another worker has taken it over.
func (r *sweepRun) heartbeat(ctx context.Context) error {
	ticker := time.NewTicker(ledger.SweepBeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := r.lease.Beat(ctx); errors.Is(err, ledger.ErrSweepLost) {
				return err
			}
		}
	}
}

// once makes the batch of the sweep, unless it exists already.
func (r *sweepRun) once(ctx context.Context, selection Selection) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.s.cfg.Log.Error("panic while sweeping", "sweep", r.p.Name, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	// The id is claimed and the name is ours, so the batch of a dead worker is found again.
	for {
		found, err := r.findBatch(ctx)
		if err != nil || found == batchMade {
			return err
		}
		if found == idTaken {
			if err := r.claim(ctx); err != nil {
				return err
			}
			continue
		}
		if r.lease.Run.Batch == "" {
			r.s.cfg.Log.Debug("sweep started", "sweep", r.p.Name, "batch", r.batch)
		} else {
			r.s.cfg.Log.Info("sweep continued", "sweep", r.p.Name, "batch", r.batch)
		}
		r.result, err = r.s.sweep(ctx, r.s.ledger, Config{
			Selection: selection, API: r.s.cfg.API, Limiter: r.s.cfg.Limiter, Log: r.s.cfg.Log,
			BatchID: r.batch, Name: r.name(), By: history.By{Actor: r.s.cfg.Process, Auto: true}, Canary: true, Observe: r.s.cfg.Observe,
			Confirm: func(plan Plan) error { return r.lease.Note(ctx, Counts(plan, r.s.cfg.Process)) },
		})
		if errors.Is(err, importer.ErrOtherLinks) || err == nil && r.result.Existed {
			continue // a batch with this id was made meanwhile: check whose it is
		}
		return err
	}
}

// name is the name of the batch. No other batch has it.
func (r *sweepRun) name() string { return "scheduled " + r.p.Name }

// claimed is what findBatch finds under the claimed id.
type claimed uint8

const (
	idTaken   claimed = iota // another batch, or no id is claimed yet
	idFree                   // no batch, or one of this sweep that is not sealed
	batchMade                // the sealed batch of this sweep
)

// findBatch looks for the batch with the claimed id.
func (r *sweepRun) findBatch(ctx context.Context) (claimed, error) {
	if r.batch == "" {
		return idTaken, nil
	}
	b, err := r.s.ledger.Get(ctx, r.batch)
	switch {
	case errors.Is(err, ledger.ErrNoBatch):
		return idFree, nil
	case err != nil:
		return idTaken, err
	case b.Name != r.name() || b.Source != importer.SourceSweep:
		return idTaken, nil
	case b.State == ledger.Importing:
		return idFree, nil
	}
	r.result.Batch = b
	return batchMade, nil
}

// claim claims a free id for the batch.
func (r *sweepRun) claim(ctx context.Context) error {
	id, err := FreeID(ctx, r.s.ledger, r.p.Due)
	if err == nil {
		r.batch, err = r.lease.Claim(ctx, r.batch, id)
	}
	return err
}

// Counts are the numbers of a plan for the ledger. by names who ran the sweep.
func Counts(p Plan, by string) ledger.SweepCounts {
	left := map[string]int64{}
	d := p.Dropped
	for name, n := range map[string]int64{
		"status": d.Status, "no_expiry": d.NoExpiry, "unreadable_expiry": d.UnreadableExpiry, "not_expired": d.NotExpired,
		"no_created": d.NoCreated, "unreadable_created": d.UnreadableCreated, "not_old": d.NotOld, "excluded": d.Excluded,
		"waiting": p.Waiting, "settled": p.Settled,
	} {
		if n > 0 {
			left[name] = n
		}
	}
	return ledger.SweepCounts{
		Listed: p.Listed, Selected: p.Selected, Waiting: p.Waiting, PastExpiry: p.PastExpiry, Suspicious: p.Suspicious,
		LeftOut: left, By: by,
	}
}

// end writes the result of the sweep to the ledger and the log. Its error is that of ProcessTask.
func (r *sweepRun) end(err error) error {
	// The result is written even if the process stops.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.s.runCtx), sweepWrite)
	defer cancel()
	log := r.s.cfg.Log.With("sweep", r.p.Name)
	tries := r.lease.Run.Failures + 1
	switch {
	case err == nil:
		return r.succeed(ctx, log)
	case errors.Is(err, ledger.ErrSweepLost):
		log.Warn("sweep left alone", "reason", err)
		return &task.Later{Delay: sweepBusy, Why: err.Error()}
	case errors.As(err, new(*interruptedError)):
		log.Info("sweep given back", "reason", err)
		_ = r.lease.GiveBack(ctx, 0, err.Error()) // if this fails, the missing heartbeat has the same effect
		return &task.Later{Why: err.Error()}
	case errors.Is(err, ratelimit.ErrHeld), errors.Is(err, ledger.ErrBusy):
		log.Warn("sweep put off", "reason", err, "delay", sweepPutOff.String())
		_ = r.lease.GiveBack(ctx, sweepPutOff, err.Error())
		return &task.Later{Delay: sweepPutOff, Why: err.Error()}
	case final(err), tries > len(sweepDelays):
		return r.fail(ctx, log, err, tries)
	}
	delay, text := sweepDelays[tries-1], explain(err)
	log.Warn("sweep failed, and will be tried again", "error", text, "tries", tries, "delay", delay.String())
	_ = r.lease.Fail(ctx, delay, text)
	return &task.Later{Delay: delay, Why: text}
}

// fail ends the sweep for good, unless its batch was made: a reply may have been lost.
func (r *sweepRun) fail(ctx context.Context, log *slog.Logger, cause error, tries int) error {
	text, detail := explain(cause), ""
	if errors.As(cause, new(*TooManyError)) {
		detail = history.Refused
	}
	found, err := r.findBatch(ctx)
	switch {
	case err == nil && found == batchMade:
		return r.succeed(ctx, log)
	case err == nil:
		err = r.lease.Abandon(ctx, r.s.cfg.Process, text, detail)
	}
	if err != nil && !errors.Is(err, ledger.ErrSweepLost) {
		return &task.Later{Delay: sweepBusy, Why: err.Error()}
	}
	log.Error("sweep failed", "error", text, "tries", tries)
	return nil
}

// Found says what a sweep found, for its history. batch is the one that it made, or "".
func Found(c ledger.SweepCounts, batch string) string {
	text := humanize.Digits(c.Listed) + " listed, " + humanize.Digits(c.Selected) + " selected"
	if batch != "" {
		text += ": batch " + batch
	}
	return text
}

func (r *sweepRun) succeed(ctx context.Context, log *slog.Logger) error {
	found := r.lease.Run.Counts // by the worker that made the batch
	if r.result.Requests > 0 {
		found = Counts(r.result.Plan, r.s.cfg.Process)
	}
	err := r.lease.Note(ctx, found)
	if err == nil && r.result.Batch.ID == "" {
		_, err = r.lease.Claim(ctx, r.batch, "") // there is none
	}
	if err == nil {
		err = r.lease.End(ctx, r.s.cfg.Process, Found(found, r.result.Batch.ID))
	}
	if err != nil { // a retry finds the batch
		return &task.Later{Delay: sweepBusy, Why: err.Error()}
	}
	left := found.Listed - found.Waiting - r.result.Batch.Total
	log.Info("sweep finished", "batch", r.result.Batch.ID, "links", r.result.Batch.Total, "listed", found.Listed,
		"waiting_elsewhere", found.Waiting, "left_out", max(0, left), "took", time.Since(r.began).Round(time.Millisecond).String())
	return nil
}

// final reports whether a retry cannot solve an error.
func final(err error) bool {
	return errors.As(err, new(*finalError)) || errors.As(err, new(*TooManyError)) || errors.As(err, new(*UnreadableDatesError)) ||
		errors.Is(err, ErrPageIgnored)
}

// explain returns an error as one line for the log and the ledger.
func explain(err error) string {
	var many *TooManyError
	if errors.As(err, &many) {
		return fmt.Sprintf("found %d links, more than the %d that --sweep-max allows: nothing was done", many.Found, many.Max)
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	var unreadable *UnreadableDatesError
	if errors.As(err, &unreadable) {
		text += "; linkcancel sweep --dry-run shows the list, and linkcancel import cancels links from a file"
	}
	return text
}

// runTraced runs a sweep in a trace of its own.
func (r *sweepRun) runTraced(ctx context.Context) error {
	ctx, span := r.s.cfg.Tracer.Start(ctx, "sweep", trace.WithNewRoot(), trace.WithAttributes(tracing.Sweep.String(r.p.Name)))
	err := r.run(ctx)
	if err != nil {
		span.SetStatus(codes.Error, explain(err))
	}
	span.End()
	return err
}
