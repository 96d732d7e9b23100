package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
)

const (
	// sweepCheck is how often an idle server looks for a task.
	sweepCheck = 2 * time.Second
	// planEvery is how often the clock is read, since it may be set.
	planEvery = 30 * time.Second
	planAgain = 5 * time.Second // after an error
	// orphansEvery is how often the tasks of dead workers are looked for.
	orphansEvery = 5 * time.Second

	// sweepLate is how late a sweep may begin: it must not run by day because a night was missed.
	sweepLate = time.Hour
	// sweepForgotten is how long a missed sweep can still be made up for, or recorded as missed.
	sweepForgotten = 48 * time.Hour
	// sweepOver is how long after its time a sweep is continued.
	sweepOver = 12 * time.Hour
	// sweepCrashes is how many workers a sweep may crash.
	sweepCrashes = 5

	sweepBusy   = 15 * time.Second // delay while another worker runs the sweep
	sweepPutOff = time.Minute      // delay during a long hold, or while a batch has the lock
	sweepStop   = 3 * time.Second  // timeout for the end of the server
	sweepWrite  = 5 * time.Second  // timeout for writing the result of a sweep
)

// sweepDelays are the delays after failures. After the last one the sweep has failed.
var sweepDelays = [...]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour}

// SweeperConfig configures a Sweeper. All fields but Observe and Tracer are required.
type SweeperConfig struct {
	Schedule  *Schedule
	Selection Selection
	API       Lister
	Limiter   Limiter
	Log       *slog.Logger
	Process   string // names this process in the fleet
	// Observe, if not nil, is called after each request, for metrics. Status 0: no answer.
	Observe func(method string, status int, took time.Duration)
	Tracer  trace.Tracer // nil: no traces
}

// Sweeper runs sweeps by a schedule, on all workers. Each enqueues a task when a sweep is due, with
// the same id on every worker, so that one of them runs it. The ledger stores how far a sweep is:
// see ledger.SweepLease. A sweep continues after a crash, and makes one batch.
type Sweeper struct {
	cfg    SweeperConfig
	broker *broker.Broker
	ledger *ledger.Ledger
	client *asynq.Client
	// inspector finds the tasks of workers that died.
	inspector *asynq.Inspector
	sweep     func(context.Context, *ledger.Ledger, Config) (Result, error)

	runCtx  context.Context // of Run
	next    time.Time       // when the next sweep is due; zero: not known yet
	planned time.Time       // next, as the ledger has it
}

// NewSweeper makes a sweeper; Run starts it.
func NewSweeper(cfg SweeperConfig, b *broker.Broker, l *ledger.Ledger) *Sweeper {
	return &Sweeper{cfg: cfg, broker: b, ledger: l, client: asynq.NewClientFromRedisClient(b.Client()),
		inspector: asynq.NewInspectorFromRedisClient(b.Client()), sweep: Run}
}

// Run enqueues and runs sweeps until ctx ends. It then returns the sweep in hand to the queue.
func (s *Sweeper) Run(ctx context.Context) error {
	s.runCtx = ctx
	// A server of its own: a sweep and slices must not wait for each other.
	server := s.broker.NewServer(broker.NewServerHook(nil), s.cfg.Log, asynq.Config{
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
	trouble := broker.Trouble{Log: s.cfg.Log}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait, err := s.enqueueDue(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			trouble.Begin("sweeps cannot be scheduled", err)
		case err == nil:
			trouble.End("sweeps are scheduled again", "next", s.next)
		}
		timer.Reset(wait)
	}
}

// enqueueDue enqueues a sweep that is due, and returns how long to wait before the next check.
func (s *Sweeper) enqueueDue(ctx context.Context) (time.Duration, error) {
	// Redis' clock is the same for all workers.
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

// firstDue returns when the first sweep of this process is due. It is in the past if workers
// with this schedule planned a sweep, and none ran when it was due.
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

// enqueue enqueues the sweep that was due last. One is enough if several were missed.
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

// enqueueSweep enqueues a sweep unless the queue has it, or had it in the past two days.
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

// repair enqueues sweeps of dead workers as copies until ctx ends. All workers do so, and the queue
// keeps one copy. The ledger lets one worker at a time run a sweep.
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

// ProcessTask runs one sweep, as an asynq.Handler. nil: it is done or has failed for good.
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
