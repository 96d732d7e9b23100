package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/metrics"
	"linkcancel/producer/feeder"
	"linkcancel/producer/sweep"
	"linkcancel/worker"
)

// keyCheck is how often the key file is looked at.
const keyCheck = time.Second

// engine is a worker and a feeder side by side: what the commands worker, run
// and demo have in common.
type engine struct {
	limiter *ratelimit.Fleet
	worker  *worker.Worker
	feeder  *feeder.Feeder
	sweeper *sweep.Sweeper // nil: none
	// progress: the user sees holds there.
	progress bool
	metrics  *metrics.Metrics
	key      *plexy.Key
	client   *plexy.Client
}

type engineConfig struct {
	send    sendFlags
	api     apiFlags
	key     *plexy.Key
	journal worker.Journal
	badKey  func(error)
	// unproved is called when nothing shows that the base URL is the API's; nil: the
	// worker holds until something does.
	unproved func(error)
	// progress: the user sees holds there, and needs no warning beside it.
	progress bool
	// sweeps are to be run by schedule; nil: none.
	sweeps *sweepPlan
}

// sweepPlan says when to sweep, and what.
type sweepPlan struct {
	schedule  *sweep.Schedule
	selection sweep.Selection
}

// check refuses settings that no worker can work with.
func (f sendFlags) check() error {
	switch {
	case f.Burst < 1:
		return usagef("--burst %d: use 1 or more", f.Burst)
	case f.Concurrency < 1 || f.Concurrency > 10_000:
		return usagef("--concurrency %d: use 1 to 10000", f.Concurrency)
	case f.Attempts < 1 || f.Attempts > 200:
		return usagef("--attempts %d: use 1 to 200", f.Attempts)
	case f.DrainTimeout < 0 || f.DrainTimeout > 5*time.Minute:
		return usagef("--drain-timeout %v: use 0s to 5m", f.DrainTimeout)
	}
	return nil
}

func newEngine(a *app, b *broker.Broker, l *ledger.Ledger, cfg engineConfig) (*engine, error) {
	if err := cfg.send.check(); err != nil {
		return nil, err
	}
	client, err := cfg.api.client(cfg.key, cfg.send.Concurrency)
	if err != nil {
		return nil, err
	}
	e := &engine{key: cfg.key, client: client, progress: cfg.progress, metrics: metrics.New(version)}
	api := a.traced(counted{client, e.metrics.InFlight}, cfg.api.BaseURL)
	if e.limiter, err = e.newLimiter(a, b, cfg); err != nil {
		return nil, err
	}
	salt, err := l.Salt(a.ctx)
	if err != nil {
		return nil, err
	}
	e.worker, err = worker.New(worker.Config{
		ID: a.id, Concurrency: cfg.send.Concurrency, Attempts: cfg.send.Attempts, Rate: float64(cfg.send.Rate),
		DrainTimeout: cfg.send.DrainTimeout, Log: a.log, Observer: e.metrics, Journal: cfg.journal, BadKey: cfg.badKey,
		Unproved: cfg.unproved, TrustPlain404: cfg.send.TrustPlain404, API: client.BaseURL(), Host: client.Host(), Version: version,
		Key: func() string { return cfg.key.Fingerprint(salt) }, KeySource: cfg.key.Source(), Tracer: a.tracer,
	}, b, l, api, e.limiter)
	if err != nil {
		return nil, err
	}
	e.feeder = feeder.New(feeder.Config{
		Rate: float64(cfg.send.Rate), Limit: e.limiter.Status, Keep: a.Keep,
		Log: a.log, Observer: e.metrics, Tracer: a.tracer,
	}, b.Client(), l)
	if cfg.sweeps != nil {
		e.sweeper = sweep.NewSweeper(sweep.SweeperConfig{
			Schedule: cfg.sweeps.schedule, Selection: cfg.sweeps.selection,
			API: api, Limiter: e.limiter, Log: a.log, Observe: e.metrics.Request, Tracer: a.tracer,
		}, b, l)
	}
	e.metrics.WatchLimit(e.limiter.Status)
	e.metrics.WatchFleet(l, b.Client(), a.log)
	return e, nil
}

// newLimiter makes the limiter that all workers on this Redis share: for run
// and demo it is the embedded one, which they have for themselves.
func (e *engine) newLimiter(a *app, b *broker.Broker, cfg engineConfig) (*ratelimit.Fleet, error) {
	limits := ratelimit.Config{
		Rate: cfg.send.Rate, Burst: cfg.send.Burst,
		OnHold: func(h ratelimit.Hold) {
			if h.Reason == ratelimit.ReasonNone {
				a.log.Info("hold ended")
				return
			}
			level := slog.LevelWarn
			if cfg.progress {
				level = slog.LevelInfo
			}
			attrs := []any{"hold", string(h.Reason)}
			if !h.Until.IsZero() {
				attrs = append(attrs, "until", h.Until)
			}
			if h.Cause != "" {
				attrs = append(attrs, "cause", h.Cause)
			}
			a.log.Log(a.ctx, level, "nothing is sent", attrs...)
		},
	}
	return ratelimit.NewFleet(ratelimit.FleetConfig{
		Config: limits, Redis: b.Client(), Process: a.id, Log: a.log,
		Demand: func() int { return e.worker.Demand() }, // asked while the engine runs
	})
}

// serve shows the metrics, if they are wanted, until stop is called: also while
// the engine drains.
func (f metricsFlags) serve(a *app, e *engine, ready func(context.Context) error) (stop func(), err error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(a.ctx))
	if f.MetricsAddr == "off" {
		return stop, nil
	}
	err = e.metrics.Serve(ctx, metrics.ServerConfig{Addr: f.MetricsAddr, Pprof: f.Pprof, Ready: ready, Log: a.log})
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// run works until ctx ends, then drains.
func (e *engine) run(ctx context.Context, a *app) error {
	var side sync.WaitGroup
	sideCtx, stop := context.WithCancel(ctx)
	side.Go(func() { e.feeder.Run(sideCtx) })
	side.Go(func() { watchKey(sideCtx, a, e.key, e.limiter.ProbeNow) })
	if !e.progress { // which tells it
		side.Go(func() { e.watchCause(sideCtx, a) })
	}
	if e.sweeper != nil {
		side.Go(func() {
			if err := e.sweeper.Run(sideCtx); err != nil {
				a.log.Error("no sweeps are run", "error", err)
			}
		})
	}
	// The limiter learns from answers to the last.
	pumping, stopPump := context.WithCancel(context.WithoutCancel(ctx))
	side.Go(func() { e.limiter.Run(pumping) })
	err := e.worker.Run(ctx)
	e.client.CloseIdle() // what comes after may need their file descriptors
	stop()
	stopPump()
	side.Wait()
	return err
}

// holdCheck is how often the cause of a hold is looked at.
const holdCheck = time.Second

// watchCause logs why sending is on hold: when the cause changes, and each
// minute. The begin of a hold is logged by the limiter's OnHold.
func (e *engine) watchCause(ctx context.Context, a *app) {
	var told causes
	every(ctx, holdCheck, func() {
		hold := e.limiter.Status().Hold
		if hold.Reason != ratelimit.ReasonNone && told.due(hold.Cause, time.Now()) && time.Since(hold.Since) > holdCheck {
			a.log.Warn("still on hold", "hold", string(hold.Reason), "since", hold.Since, "cause", hold.Cause)
		}
	})
}

// drain runs the engine until the batch needs no more of it, showing progress.
// errInterrupted: the user stopped it.
func (e *engine) drain(ctx context.Context, a *app, l *ledger.Ledger, id string) (ledger.Batch, error) {
	b, err := l.Get(ctx, id)
	if err != nil {
		return b, err
	}
	p := newProgress(a.stderr, b, func() ratelimit.Hold { return e.limiter.Status().Hold }, e.worker.Load)
	engineCtx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- e.run(engineCtx, a) }()
	watched, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	engineErr := make(chan error, 1)
	go func() {
		err := <-ended
		stopWatch() // the worker ended by itself: a journal that cannot be written
		engineErr <- err
	}()
	_, watchErr := watch(watched, l, p, id)
	if a.ctx.Err() != nil {
		fmt.Fprintln(a.stderr, "\nStopping: calls in flight are finished first. Ctrl-C again quits at once.")
	}
	stop()
	err = <-engineErr
	// The drain may have finished some more.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	b, getErr := l.Get(last, id)
	if getErr == nil {
		p.update(b)
	}
	p.end()
	switch {
	case err != nil:
		return b, err
	case getErr != nil:
		return b, getErr
	case errors.Is(watchErr, context.Canceled):
		return b, errInterrupted
	}
	return b, watchErr
}

var errInterrupted = errors.New("interrupted")
