package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
	"linkcancel/internal/tracing"
	"linkcancel/producer"
)

const (
	// sweepCheck is how often an idle sweep server looks for a task.
	sweepCheck = 2 * time.Second
	// planEvery is how often the clock is read, which may have been set.
	planEvery = 30 * time.Second
	planAgain = 5 * time.Second // after an error
	// orphansEvery is how often the tasks of dead workers are looked for.
	orphansEvery = 5 * time.Second

	// sweepLate is how late a sweep may begin. A worker that starts in the morning
	// does not make up for the night: people pay then.
	sweepLate = time.Hour
	// sweepForgotten is how long a planned sweep for which no worker was there is
	// remembered, to be recorded as missed or made up for.
	sweepForgotten = 48 * time.Hour
	// sweepOver is how long after its time a sweep is still gone on with.
	sweepOver = 12 * time.Hour
	// sweepCrashes is how many workers a sweep may take down.
	sweepCrashes = 5

	sweepBusy   = 15 * time.Second // between looks at a sweep that another worker runs
	sweepPutOff = time.Minute      // in a long hold, or while something like it is written
	sweepStop   = 3 * time.Second  // the end of the server
	sweepWrite  = 5 * time.Second  // the writing of what came of a sweep
)

// sweepDelays are the times before a failed sweep is tried again; after the last
// of them it is recorded as failed.
var sweepDelays = [...]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour}

// SweeperConfig says which sweeps are run, and how. All fields but Observe and
// Tracer are required.
type SweeperConfig struct {
	Schedule  *Schedule
	Selection Selection
	API       Lister
	Limiter   Limiter
	Log       *slog.Logger
	// Observe, if not nil, is told of each request, for metrics; status 0: no
	// answer.
	Observe func(method string, status int, took time.Duration)
	Tracer  trace.Tracer // nil: no traces
}

// Sweeper runs sweeps by a schedule. All workers of a fleet have one: each puts
// a task into the queue when a sweep is due, under an id that all of them use,
// so that there is one task, and one of them runs it. The ledger knows how far
// a sweep is: see ledger.SweepLease. A sweep that began goes on over crashes,
// and makes one batch.
type Sweeper struct {
	cfg    SweeperConfig
	broker *broker.Broker
	ledger *ledger.Ledger
	client *asynq.Client
	// inspector finds the tasks of workers that died.
	inspector *asynq.Inspector
	sweep     func(context.Context, *ledger.Ledger, Config) (Result, error)

	stopping context.Context // of Run
	next     time.Time       // when the next sweep is due; zero: not known yet
	planned  time.Time       // as the ledger was told
}

// NewSweeper makes a sweeper; Run starts it.
func NewSweeper(cfg SweeperConfig, b *broker.Broker, l *ledger.Ledger) *Sweeper {
	return &Sweeper{cfg: cfg, broker: b, ledger: l, client: asynq.NewClientFromRedisClient(b.Client()),
		inspector: asynq.NewInspectorFromRedisClient(b.Client()), sweep: Run}
}

// Run enqueues and runs sweeps until ctx ends, and gives back the one in hand.
func (s *Sweeper) Run(ctx context.Context) error {
	s.stopping = ctx
	// A server of its own: a sweep must not take a place from slices, nor wait for one.
	// The ledger allows one sweep at a time.
	server := s.broker.NewServer(&broker.ServerHook{}, s.cfg.Log, asynq.Config{
		Concurrency:              1,
		Queues:                   map[string]int{task.QueueSweep: 1},
		TaskCheckInterval:        sweepCheck,
		DelayedTaskCheckInterval: sweepCheck,
		ShutdownTimeout:          sweepStop,
	})
	defer server.Close()
	if err := server.Start(s); err != nil {
		return fmt.Errorf("start the sweep server: %w", err)
	}
	var repairing sync.WaitGroup
	repairing.Go(func() { s.repair(ctx) })
	s.plan(ctx)
	repairing.Wait()
	server.Stop()
	server.Shutdown(sweepStop, func() {})
	return nil
}

// plan enqueues each sweep when it is due.
func (s *Sweeper) plan(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	interrupted := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait, err := s.enqueueDue(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			if !interrupted {
				s.cfg.Log.Warn("sweeps cannot be scheduled", "error", err)
			}
			interrupted = true
		case err == nil && interrupted:
			s.cfg.Log.Info("sweeps are scheduled again", "next", s.next)
			interrupted = false
		}
		timer.Reset(wait)
	}
}

// enqueueDue enqueues a sweep that is due, and returns how long to wait before
// the next look.
func (s *Sweeper) enqueueDue(ctx context.Context) (time.Duration, error) {
	// By Redis' clock, which is the same for all workers.
	now, err := s.ledger.Now(ctx)
	if err != nil {
		return planAgain, fmt.Errorf("ask Redis for the time: %w", err)
	}
	if s.next.IsZero() {
		if s.next, err = s.firstDue(ctx, now); err != nil {
			return planAgain, err
		}
	}
	if !s.next.After(now) {
		if err := s.enqueue(ctx, now); err != nil {
			return planAgain, err
		}
		s.next = s.cfg.Schedule.Next(now)
	}
	if s.planned != s.next {
		if err := s.ledger.PlanSweep(ctx, s.cfg.Schedule.String(), s.next); err != nil {
			return planAgain, err
		}
		s.planned = s.next
	}
	return min(s.next.Sub(now), planEvery), nil
}

// firstDue is when the first sweep of this process is due: in the past if
// workers with this schedule planned it, and none was there.
func (s *Sweeper) firstDue(ctx context.Context, now time.Time) (time.Time, error) {
	known, err := s.ledger.Sweeps(ctx)
	if err != nil {
		return time.Time{}, err
	}
	next, schedule := s.cfg.Schedule.Next(now), s.cfg.Schedule.String()
	s.cfg.Log.Info("sweeps are scheduled", "schedule", schedule, "next", next)
	switch {
	case known.Schedule == schedule && !known.Next.After(now):
		s.cfg.Log.Info("no worker was there when a sweep was due", "due", known.Next.In(s.cfg.Schedule.loc))
		return known.Next, nil
	case known.Schedule != "" && known.Schedule != schedule:
		s.cfg.Log.Info("sweeps had another schedule before: every worker should have the same", "before", known.Schedule)
	}
	return next, nil
}

// enqueue enqueues the sweep that was due last. Of several that nobody was there
// for, one is enough.
func (s *Sweeper) enqueue(ctx context.Context, now time.Time) error {
	due := s.next
	if now.Sub(due) > sweepForgotten {
		return nil
	}
	for later := s.cfg.Schedule.Next(due); !later.IsZero() && !later.After(now); later = s.cfg.Schedule.Next(later) {
		due = later
	}
	selection, err := json.Marshal(s.cfg.Selection)
	if err != nil {
		return fmt.Errorf("encode the selection of a sweep: %w", err)
	}
	p := task.Sweep{Name: s.cfg.Schedule.Name(due), Due: due.In(s.cfg.Schedule.loc), Selection: selection}
	_, err = enqueueSweep(ctx, s.client, p)
	return err
}

// enqueueSweep puts a sweep into the queue, unless it is there already, or was
// in the past two days.
func enqueueSweep(ctx context.Context, client *asynq.Client, p task.Sweep) (enqueued bool, err error) {
	t, err := p.Task()
	if err != nil {
		return false, err
	}
	switch _, err = client.EnqueueContext(ctx, t); {
	case err == nil:
		return true, nil
	case errors.Is(err, asynq.ErrTaskIDConflict):
		return false, nil
	}
	return false, fmt.Errorf("enqueue %s: %w", p.ID(), err)
}

// repair enqueues every sweep whose worker died as a copy with its own id, until ctx ends.
// All workers do so, and the queue keeps one copy. The ledger lets one worker at a time
// run a sweep, and knows whether it has ended.
func (s *Sweeper) repair(ctx context.Context) {
	ticker := time.NewTicker(orphansEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := s.requeueOrphans(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Debug("sweeps of dead workers are not looked for", "error", err)
		}
	}
}

func (s *Sweeper) requeueOrphans(ctx context.Context) error {
	expired, err := task.ExpiredLeases(ctx, s.broker.Client(), task.QueueSweep)
	if err != nil || expired == 0 {
		return err
	}
	orphans, err := task.Orphans(s.inspector, task.QueueSweep, task.TypeSweep)
	if err != nil {
		return err
	}
	for _, payload := range orphans {
		p, err := task.ParseSweep(payload)
		if err != nil {
			continue // of a newer release, which repairs it
		}
		p.Redeliveries++
		enqueued, err := enqueueSweep(ctx, s.client, p)
		if err != nil {
			return err
		}
		if enqueued {
			s.cfg.Log.Warn("sweep enqueued again", "sweep", p.Name, "again", p.Redeliveries)
		}
	}
	return nil
}

// ProcessTask runs one sweep: it is an asynq.Handler. It returns nil when there
// is nothing more to do about it, be it done or failed for good.
func (s *Sweeper) ProcessTask(ctx context.Context, t *asynq.Task) error {
	p, err := task.ParseSweep(t.Payload())
	if t.Type() != task.TypeSweep {
		err = fmt.Errorf("type %q: %w", t.Type(), task.ErrNewer)
	}
	if errors.Is(err, task.ErrNewer) {
		s.cfg.Log.Warn("sweep of a newer release left alone", "error", err)
		return &task.Later{Delay: time.Minute, Why: err.Error()}
	}
	if err != nil {
		s.cfg.Log.Error("unreadable sweep task dropped", "error", err)
		return nil
	}
	lease, err := s.ledger.BeginSweep(ctx, p.Due)
	switch {
	case errors.Is(err, ledger.ErrSweepEnded):
		return nil
	case errors.Is(err, ledger.ErrSweepOutdated):
		// It ended before that one, or was given up for it, which was told.
		s.cfg.Log.Info("sweep task dropped", "sweep", p.Name, "reason", err)
		return nil
	case errors.Is(err, ledger.ErrSweepBusy):
		return &task.Later{Delay: sweepBusy/2 + rand.N(sweepBusy), Why: err.Error()}
	case errors.Is(err, ledger.ErrSweepNewer):
		return &task.Later{Delay: time.Minute, Why: err.Error()}
	case err != nil:
		return &task.Later{Delay: sweepBusy, Why: err.Error()}
	}
	if !lease.GivenUp.IsZero() {
		s.cfg.Log.Warn("an earlier sweep did not end", "due", lease.GivenUp.In(s.cfg.Schedule.loc))
	}
	r := &sweepRun{s: s, p: p, lease: lease, began: time.Now(), batch: lease.Run.Batch}
	if s.cfg.Tracer == nil {
		return r.end(r.run(ctx))
	}
	return r.end(r.runTraced(ctx))
}

// sweepRun is a sweep in the hands of this process.
type sweepRun struct {
	s     *Sweeper
	p     task.Sweep
	lease *ledger.SweepLease
	began time.Time

	batch  string // the id of its batch
	result Result
}

// finalError ends a sweep for good.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

func finalf(format string, args ...any) error { return &finalError{fmt.Errorf(format, args...)} }

// interruptedError: not the sweep failed, but this process may not go on.
type interruptedError struct{ cause error }

func (e *interruptedError) Error() string { return e.cause.Error() }
func (e *interruptedError) Unwrap() error { return e.cause }

// errSweepStopping: this process is about to end.
var errSweepStopping = errors.New("the worker is stopping")

// run runs the sweep as long as this process may: until it stops, asynq's lease
// is over, or another worker has taken the sweep over.
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
	defer context.AfterFunc(r.s.stopping, func() { cancel(errSweepStopping) })()
	group.Go(func() error { return r.beat(ctx) })
	group.Go(func() error {
		err := r.once(ctx, selection)
		if cause := context.Cause(ctx); cause != nil && err != nil {
			err = &interruptedError{cause}
		}
		cancel(nil) // no more beats
		return err
	})
	return group.Wait()
}

// beat tells that the sweep is at work, and ends it if it is no longer ours.
// While Redis is away it goes on: no batch can be made then.
func (r *sweepRun) beat(ctx context.Context) error {
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
	// The id is claimed before the batch is made, and the batch has our name: so
	// one that a worker made before it died is found again.
	for {
		stands, free, err := r.findBatch(ctx)
		if err != nil || stands {
			return err
		}
		if !free {
			if err := r.claim(ctx); err != nil {
				return err
			}
			continue
		}
		if r.lease.Run.Batch == "" {
			r.s.cfg.Log.Info("sweep started", "sweep", r.p.Name, "batch", r.batch)
		} else {
			r.s.cfg.Log.Info("sweep taken up again", "sweep", r.p.Name, "batch", r.batch)
		}
		r.result, err = r.s.sweep(ctx, r.s.ledger, Config{
			Selection: selection, API: r.s.cfg.API, Limiter: r.s.cfg.Limiter, Log: r.s.cfg.Log,
			BatchID: r.batch, Name: r.name(), Canary: true, Observe: r.s.cfg.Observe,
			Confirm: func(plan Plan) error { return r.lease.Note(ctx, counts(plan)) },
		})
		if errors.Is(err, producer.ErrOtherLinks) || err == nil && r.result.Stood {
			continue // somebody made a batch of this id meanwhile: whose is it?
		}
		return err
	}
}

// name is what the batch is called. No other batch has this name.
func (r *sweepRun) name() string { return "scheduled " + r.p.Name }

// findBatch finds the batch of the claimed id. stands: it is there, and ours. free:
// it is not there, or it is ours and not finished.
func (r *sweepRun) findBatch(ctx context.Context) (stands, free bool, err error) {
	if r.batch == "" {
		return false, false, nil
	}
	b, err := r.s.ledger.Get(ctx, r.batch)
	switch {
	case errors.Is(err, ledger.ErrNoBatch):
		return false, true, nil
	case err != nil:
		return false, false, err
	case b.Name != r.name() || b.Source != producer.SourceSweep:
		return false, false, nil
	case b.State == ledger.Importing:
		return false, true, nil
	}
	r.result.Batch = b
	return true, false, nil
}

// claim gives the batch an id that is free.
func (r *sweepRun) claim(ctx context.Context) error {
	id, err := FreeID(ctx, r.s.ledger, r.p.Due)
	if err == nil {
		r.batch, err = r.lease.Claim(ctx, r.batch, id)
	}
	return err
}

func counts(p Plan) ledger.SweepCounts {
	return ledger.SweepCounts{Listed: p.Listed, Selected: p.Selected, Waiting: p.Waiting, PastExpiry: p.PastExpiry, Suspicious: p.Suspicious}
}

// end writes what came of the sweep to ledger and log, and says what becomes of
// its task.
func (r *sweepRun) end(err error) error {
	// Whatever ended, this has to be written.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.s.stopping), sweepWrite)
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
		_ = r.lease.GiveBack(ctx, 0, err.Error()) // its silence tells it, too
		return &task.Later{Why: err.Error()}
	case errors.Is(err, ratelimit.ErrHeld), errors.Is(err, ledger.ErrBusy):
		log.Warn("sweep put off", "reason", err, "delay", sweepPutOff.String())
		_ = r.lease.GiveBack(ctx, sweepPutOff, err.Error())
		return &task.Later{Delay: sweepPutOff, Why: err.Error()}
	case final(err), tries > len(sweepDelays):
		return r.fail(ctx, log, explain(err), tries)
	}
	delay, text := sweepDelays[tries-1], explain(err)
	log.Warn("sweep failed, and will be tried again", "error", text, "tries", tries, "delay", delay.String())
	_ = r.lease.Fail(ctx, delay, text)
	return &task.Later{Delay: delay, Why: text}
}

// fail ends the sweep for good, unless its batch stands all the same: the answer
// to its seal was lost, or the worker that made it.
func (r *sweepRun) fail(ctx context.Context, log *slog.Logger, text string, tries int) error {
	stands, _, err := r.findBatch(ctx)
	switch {
	case err == nil && stands:
		return r.succeed(ctx, log)
	case err == nil:
		err = r.lease.Abandon(ctx, text)
	}
	if err != nil && !errors.Is(err, ledger.ErrSweepLost) {
		return &task.Later{Delay: sweepBusy, Why: err.Error()}
	}
	log.Error("sweep failed", "error", text, "tries", tries)
	return nil
}

func (r *sweepRun) succeed(ctx context.Context, log *slog.Logger) error {
	found := r.lease.Run.Counts // by the worker that made the batch
	if r.result.Requests > 0 {
		found = counts(r.result.Plan)
	}
	err := r.lease.Note(ctx, found)
	if err == nil && r.result.Batch.ID == "" {
		_, err = r.lease.Claim(ctx, r.batch, "") // there is none
	}
	if err == nil {
		err = r.lease.End(ctx)
	}
	if err != nil { // the batch stands, and will be found
		return &task.Later{Delay: sweepBusy, Why: err.Error()}
	}
	log.Info("sweep finished", "batch", r.result.Batch.ID, "links", r.result.Batch.Total, "listed", found.Listed,
		"waiting", found.Waiting, "took", time.Since(r.began).Round(time.Millisecond).String())
	return nil
}

// final says whether trying again cannot mend an error.
func final(err error) bool {
	return errors.As(err, new(*finalError)) || errors.As(err, new(*TooManyError)) || errors.As(err, new(*UnreadableDatesError)) ||
		errors.Is(err, ErrPageIgnored)
}

// explain is an error in one line, for log and ledger.
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
